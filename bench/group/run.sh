#!/usr/bin/env bash
# What a hit and a write cost alone, from Redis, and in groups of one to four Forebays.
# usage: bench/group/run.sh [--write]     --write also stores the tables in bench/GROUP.md
#
#   ROUNDS=5 SECONDS_EACH=2 CLIENTS="1 16 64" WRITERS="1 16"   how much is measured
#   FOREBAY_BIN=path                                           default: target/release/forebay, built first
#
# Where Debian's pgpool2 and memcached are installed, Pgpool-II's cache is measured beside them. Each
# of what is compared has a Redis of its own; they run in turn, each round beginning with another.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/group/run.sh [--write]" ;;
esac
require postgres redis python
wish pgpool
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
ulimit -n "$(ulimit -Hn)"
make_scratch
start_postgres 'max_connections = 700' 'synchronous_commit = off' 'autovacuum = off' 'max_wal_size = 4GB'
"$PG_BIN/pgbench" -q -i -s 10 "$DIRECT_URL" >/dev/null 2>&1
"$PG_BIN/psql" -q "$DIRECT_URL" -c 'VACUUM ANALYZE'

# settings SECTION …: writes a settings file, with what all have in common.
settings() {
    printf '[log]\nlog_connections = false\nlog_disconnections = false\n' >"$SCRATCH/group.toml"
    printf '%s\n' "$@" >>"$SCRATCH/group.toml"
}

# target NAME COUNT: COUNT Forebays with these settings, over the Redis started last, if any.
target() {
    local urls=() pids=() admins=() number
    for ((number = 0; number < $2; number++)); do
        start_forebay --config "$SCRATCH/group.toml"
        urls+=("$FOREBAY_URL") pids+=("$FOREBAY_PID") admins+=("$ADMIN_URL")
    done
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "${urls[*]}" "${pids[*]}" "${admins[*]}" "$TIER_PID" "$TIER_URL" >>"$SCRATCH/targets"
}

# tier: starts the Redis of the next target.
tier() {
    start_redis
    TIER_PID="${STARTED_PIDS[-1]}" TIER_URL="$REDIS_URL"
}

# group NAME COUNT MODE: a group of that name.
group() {
    tier
    # Patient with a machine that has other work.
    settings '[cache]' 'max_age = "1h"' 'cut_off = 0' '[redis]' "url = \"$REDIS_URL\"" 'timeout = "500ms"' \
        '[group]' "name = \"$1\"" 'secret = "0123456789abcdef0123456789abcdef"' "mode = \"$3\"" 'timeout = "1s"'
    target "$1" "$2"
}

# start_pgpool METHOD: in front of PG_PORT; it asks for passwords in clear text, since it has to log in
# with them. One process a client.
start_pgpool() {
    local directory="$SCRATCH/pgpool.$1" port memcached_port pid
    mkdir -p "$directory/oids"
    port="$(free_port)" memcached_port="$(free_port)" TIER_PID="" TIER_URL=""
    if is_root; then chown -R postgres:postgres "$directory"; fi
    if [ "$1" = memcached ]; then
        (exec setpriv --reuid=nobody --regid=nogroup --clear-groups -- \
            memcached -l 127.0.0.1 -p "$memcached_port" -U 0 </dev/null >"$directory/memcached.log" 2>&1) &
        pid=$!
        STARTED_PIDS+=("$pid")
        wait_for_port "$memcached_port" "$pid" "$directory/memcached.log" memcached
        TIER_PID="$pid"
    fi
    {
        printf "listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = '%s'\n" "$port" "$directory"
        printf "pcp_port = %s\npcp_socket_dir = '%s'\npid_file_name = '%s/pid'\nlogdir = '%s'\n" "$(free_port)" "$directory" "$directory" "$directory"
        printf "socket_dir = '%s'\nwork_dir = '%s'\n" "$directory" "$directory"
        printf "backend_clustering_mode = 'raw'\nbackend_hostname0 = '127.0.0.1'\nbackend_port0 = %s\nbackend_weight0 = 1\n" "$PG_PORT"
        printf "load_balance_mode = off\nenable_pool_hba = off\nallow_clear_text_frontend_auth = on\npool_passwd = ''\n"
        printf "num_init_children = 70\nmax_pool = 1\nmemory_cache_enabled = on\nmemqcache_method = '%s'\n" "$1"
        printf "memqcache_memcached_host = '127.0.0.1'\nmemqcache_memcached_port = %s\nmemqcache_expire = 3600\n" "$memcached_port"
        printf "memqcache_oiddir = '%s/oids'\nlog_min_messages = warning\n" "$directory"
    } >"$directory/pgpool.conf"
    : >"$directory/pcp.conf"
    chmod 755 "$SCRATCH" "$directory"
    (
        exec </dev/null >"$directory/log" 2>&1
        if is_root; then
            exec setpriv --reuid=postgres --regid=postgres --clear-groups -- \
                pgpool -n -f "$directory/pgpool.conf" -F "$directory/pcp.conf"
        fi
        exec pgpool -n -f "$directory/pgpool.conf" -F "$directory/pcp.conf"
    ) &
    pid=$!
    STARTED_PIDS+=("$pid")
    wait_for_port "$port" "$pid" "$directory/log" Pgpool-II
    printf '%s\t%s\t%s\t\t%s\t\n' "Pgpool-II, $1" "postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$port/$DB_NAME" "$pid" "$TIER_PID" >>"$SCRATCH/targets"
}

TIER_PID="" TIER_URL=""
settings '[cache]' 'mode = "off"'
target "relayed" 1
settings '[cache]' 'max_age = "1h"' 'cut_off = 0'
target "alone" 1
tier
settings '[cache]' 'size = "1MB"' 'max_age = "1h"' 'cut_off = 0' '[redis]' "url = \"$REDIS_URL\"" 'timeout = "500ms"'
target "alone, from Redis" 1
for count in 1 2 3 4; do group "strict, $count" "$count" strict; done
for count in 2 4; do group "strict-local, $count" "$count" strict-local; done
if command -v pgpool >/dev/null && command -v memcached >/dev/null; then
    PGPOOL_VERSION="$(pgpool --version 2>&1 | grep -oE '[0-9]+(\.[0-9]+)+' | head -1)"
    start_pgpool shmem
    start_pgpool memcached
fi

python3 "$here/group.py" "$PG_BIN" "$here" "$SCRATCH" "${ROUNDS:-5}" "${SECONDS_EACH:-2}" \
    "${CLIENTS:-1 16 64}" "${WRITERS:-1 16}" "${PGPOOL_VERSION:-}" >"$SCRATCH/group.md"
cat "$SCRATCH/group.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/group.md" "$REPO/bench/GROUP.md"; fi
