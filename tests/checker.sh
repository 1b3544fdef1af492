#!/usr/bin/env bash
# Clients read and write through Forebay in every way applications do, while everything around them
# goes wrong; only what they were answered is judged.
# usage: tests/checker.sh [SECONDS [--group] [argument of the checker …]]     60 by default
#
# --group: three Forebays that answer as one over one Redis, each with a way of its own to it.
# `tests/checker.sh 1800 --require-hits 30` with a release build is the long form, of a group too.
#   FOREBAY_BIN=path CHECKER_BIN=path     what is run; default: the debug builds, made first
#   CHECKER_LOGS=directory                where the logs of a group are left
#   CHECKER_GROUP_MODE=strict-local       who is asked before a hit there; default: strict
#   CHECKER_SECRET=letters                what its answers in Redis are shared by; empty: they are not
#   CHECKER_PAUSE_MS=500                  how long nothing goes wrong between two faults there
#
# Forebay has too little of everything: memory, servers, prepared statements.
set -euo pipefail
cd "$(dirname "$0")/.."
built="${FOREBAY_BIN:-}"
CHECKER_SECRET="${CHECKER_SECRET-only-for-the-checker-0123456789-abcdef}"
seconds="${1:-60}"
shift || true
group=no
if [ "${1:-}" = --group ]; then
    group=yes
    shift
fi
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
postgres=('synchronous_commit = on')
# Three that miss at once: what is slow on purpose is neither compiled first nor shared out. Only
# processes die here, so what is written need not reach the disk, only the kernel.
[ "$group" = no ] || postgres+=('jit = off' 'max_parallel_workers_per_gather = 0' 'fsync = off'
    'full_page_writes = off')
start_postgres "${postgres[@]}"
redis_port="$(free_port)"
cat >"$SCRATCH/checker.toml" <<END
[cache]
size = "1MB"
max_entry_size = "64kB"
[redis]
url = "redis://127.0.0.1:$redis_port"
[pool]
default_pool_size = $([ "$group" = yes ] && echo 4 || echo 8)
max_prepared_statements = 10
[server]
server_login_retry = "100ms"
[log]
log_connections = false
log_disconnections = false
END
printf 'bind 127.0.0.1\nsave ""\nappendonly no\ndir %s\n' "$SCRATCH" >"$SCRATCH/redis.conf"
restart="$PG_BIN/pg_ctl -D ${STARTED_CLUSTERS[0]} -l $SCRATCH/restart.log"
if is_root; then
    touch "$SCRATCH/restart.log" && chown postgres "$SCRATCH/restart.log"
    restart="setpriv --reuid=postgres --regid=postgres --clear-groups -- $restart"
fi
# What the checker starts ends with it, however that ends.
if [ "$group" = yes ]; then
    # A lease is long for this machine and short for a run; nobody may take Redis for gone while it
    # is only slow.
    cat >>"$SCRATCH/checker.toml" <<END
[group]
name = "checker"
mode = "${CHECKER_GROUP_MODE:-strict}"
lease = "600ms"
timeout = "200ms"
secret = "$CHECKER_SECRET"
END
    logs="${CHECKER_LOGS:-$SCRATCH}/member.log"
    FOREBAY_URL="$DIRECT_URL"
    clients=(--clients 12 --fault-pause-ms "${CHECKER_PAUSE_MS:-500}" --lease-ms 600 --member-log "$logs"
        --member "setpriv --pdeathsig KILL $FOREBAY_BIN --config $SCRATCH/checker.toml")
else
    start_forebay --config "$SCRATCH/checker.toml"
    logs="$FOREBAY_LOG"
    clients=(--admin "$ADMIN_URL")
fi
status=0
"${CHECKER_BIN:-$target/examples/checker}" --url "$FOREBAY_URL" --direct "$DIRECT_URL" "${clients[@]}" \
    --seconds "$seconds" --faults all --pg-ctl "$restart" \
    --redis-server "setpriv --pdeathsig KILL redis-server $SCRATCH/redis.conf --port $redis_port" \
    "$@" || status=$?
# What Forebay said of itself, should anything be wrong.
grep -hE ' ERROR | panicked ' "$logs"* | tail -5 || true
exit "$status"
