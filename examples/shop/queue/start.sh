#!/bin/bash
# NATS with JetStream, its messages in /data. Environment: PASSWORD_FILE of the user "shop".
set -euo pipefail
PASSWORD=$(cat "$PASSWORD_FILE")
export PASSWORD
cat >/tmp/nats.conf <<'END'
port: 4222
http: 127.0.0.1:8222
authorization { user: shop, password: $PASSWORD }
jetstream { store_dir: /data, max_memory_store: 16MB, max_file_store: 256MB }
END
exec nats-server -c /tmp/nats.conf
