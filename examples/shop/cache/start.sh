#!/bin/bash
# Redis that writes every change down. Environment: PASSWORD_FILE.
set -euo pipefail
# The configuration comes by stdin, so that the password is neither in a file nor in the list of processes.
exec redis-server - <<END
bind 0.0.0.0
dir /data
appendonly yes
save ""
maxmemory 64mb
maxmemory-policy volatile-lru
requirepass $(cat "$PASSWORD_FILE")
END
