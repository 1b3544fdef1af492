#!/usr/bin/env bash
# Clients read and write through Forebay in every way applications do, while everything around them
# goes wrong; only what they were answered is judged.
# usage: tests/checker.sh [SECONDS [argument of the checker …]]     60 by default
#
# `tests/checker.sh 1800 --require-hits 30` with a release build is the long form.
#   FOREBAY_BIN=path CHECKER_BIN=path     what is run; default: the debug builds, made first
#
# Forebay has too little of everything: memory, servers, prepared statements.
set -euo pipefail
cd "$(dirname "$0")/.."
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. tests/lib.sh

require build postgres redis python
target="${CARGO_TARGET_DIR:-target}/debug"
if [ -z "$built" ]; then
    cargo build --quiet --bin forebay
    FOREBAY_BIN="$target/forebay"
fi
[ -n "${CHECKER_BIN:-}" ] || cargo build --quiet --example checker
make_scratch
start_postgres 'synchronous_commit = on'
redis_port="$(free_port)"
cat >"$SCRATCH/checker.toml" <<END
[cache]
size = "1MB"
max_entry_size = "64kB"
[redis]
url = "redis://127.0.0.1:$redis_port"
[pool]
default_pool_size = 8
max_prepared_statements = 10
[server]
server_login_retry = "100ms"
[log]
log_connections = false
log_disconnections = false
END
printf 'bind 127.0.0.1\nsave ""\nappendonly no\ndir %s\n' "$SCRATCH" >"$SCRATCH/redis.conf"
start_forebay --config "$SCRATCH/checker.toml"
restart="$PG_BIN/pg_ctl -D ${STARTED_CLUSTERS[0]} -l $SCRATCH/restart.log"
if is_root; then
    touch "$SCRATCH/restart.log" && chown postgres "$SCRATCH/restart.log"
    restart="setpriv --reuid=postgres --regid=postgres --clear-groups -- $restart"
fi
# Redis ends with the checker that starts it, however that ends.
status=0
"${CHECKER_BIN:-$target/examples/checker}" --url "$FOREBAY_URL" --direct "$DIRECT_URL" --admin "$ADMIN_URL" \
    --seconds "${1:-60}" --faults all --pg-ctl "$restart" \
    --redis-server "setpriv --pdeathsig KILL redis-server $SCRATCH/redis.conf --port $redis_port" \
    "${@:2}" || status=$?
# What Forebay said of itself, should anything be wrong.
grep -E ' ERROR | panicked ' "$FOREBAY_LOG" | tail -5 || true
exit "$status"
