#!/bin/bash
# What only `make test` needs beyond `make setup`: a real registry and the tools to talk to it, a browser, servers of queues and metrics. Idempotent; reads no stdin.
# Nothing that is installed here is started: a policy forbids it for that moment (policy-rc.d, see invoke-rc.d(8)).
set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
exec </dev/null

readonly POLICY=/usr/sbin/policy-rc.d PACKAGES="docker-registry apache2-utils openssl curl pebble iputils-ping procps util-linux chromium nats-server redis-server prometheus"

# shellcheck disable=SC2086
if [ "$(dpkg-query -W -f '${db:Status-Status}\n' $PACKAGES 2>/dev/null | grep -c '^installed$')" -eq "$(wc -w <<<"$PACKAGES")" ]; then
    exit 0
fi
if [ ! -e $POLICY ]; then
    printf '#!/bin/sh\nexit 101\n' >$POLICY
    chmod 755 $POLICY
    trap 'rm -f $POLICY' EXIT
fi
apt() { apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >>build/setup.log 2>&1; }
echo "installing what only the tests need: $PACKAGES"
# shellcheck disable=SC2086
apt install --no-install-recommends $PACKAGES || { apt update && apt install --no-install-recommends $PACKAGES; }
