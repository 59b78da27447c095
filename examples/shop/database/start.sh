#!/bin/bash
# PostgreSQL with its cluster in /data/cluster, made at the first start. Environment: PASSWORD_FILE of the user "shop".
set -euo pipefail
readonly CLUSTER=/data/cluster

if [ ! -d $CLUSTER ]; then
    rm -rf $CLUSTER.new # of a start that was interrupted
    initdb --pgdata=$CLUSTER.new --username=shop --pwfile="$PASSWORD_FILE" --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-instructions
    echo "host all all all scram-sha-256" >>$CLUSTER.new/pg_hba.conf
    echo "CREATE DATABASE shop" | postgres --single -D $CLUSTER.new postgres >/dev/null
    mv $CLUSTER.new $CLUSTER
fi
# SIGINT, the image's stop signal, ends sessions and shuts down cleanly.
exec postgres -D $CLUSTER -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off -c logging_collector=off \
    -c log_destination=stderr -c max_connections=200 -c shared_buffers=64MB
