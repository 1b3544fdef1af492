#!/usr/bin/env bash
# Compares PostgreSQL direct, PgBouncer and Forebay (cache off, cold, warm) under pgbench.
# usage: bench/pgbench/run.sh [--write]     --write also stores the tables in bench/RESULTS.md
#
#   ROUNDS=3 SECONDS_EACH=5 CLIENTS="1 16 64" SCALE=10   how much is measured
#   WORKLOADS="select-simple …" TARGETS="direct …"       what is measured
#   PGBOUNCER=path                                       which PgBouncer is the yardstick
#   FOREBAY_BIN=path                                     default: target/release/forebay, built first
#   FOREBAY_OFF_ARGS="--no-cache"                        what switches Forebay's cache off
#
# Every round runs each target once, beginning with another one each time, so that what else the
# machine does falls on all alike. Tables show the median over rounds.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

ROUNDS="${ROUNDS:-3}"
SECONDS_EACH="${SECONDS_EACH:-5}"
CLIENTS="${CLIENTS:-1 16 64}"
SCALE="${SCALE:-10}"
WORKLOADS="${WORKLOADS:-select-simple select-extended select-prepared hundred-simple hundred-extended hundred-prepared aggregate rows-100 rows-10000 tpcb tpcb-prepared connect}"
TARGETS="${TARGETS:-direct pgbouncer forebay-off forebay-cold forebay-warm}"
FOREBAY_OFF_ARGS="${FOREBAY_OFF_ARGS:---no-cache}"
write=no
case "${1:-}" in
--write) write=yes ;;
"") ;;
*) fail "usage: bench/pgbench/run.sh [--write]" ;;
esac

wants() { case " $TARGETS " in *" $1"*) return 0 ;; *) return 1 ;; esac; }

# workload_arguments NAME: the pgbench arguments, in ARGUMENTS, and the share of transactions
# whose latency is logged. Logging every one of a hundred thousand would measure the log.
workload_arguments() {
    local protocol="${1#*-}"
    SAMPLING=1
    case "$1" in
    select-*) ARGUMENTS=(-S -M "$protocol") SAMPLING=0.1 ;;
    hundred-*) ARGUMENTS=(-f "$here/hundred.sql" -M "$protocol") SAMPLING=0.1 ;;
    rows-*) ARGUMENTS=(-f "$here/rows.sql" -D "rows=$protocol" -M prepared) ;;
    aggregate) ARGUMENTS=(-f "$here/aggregate.sql" -M simple) ;;
    tpcb) ARGUMENTS=(-b tpcb-like -M simple) ;;
    tpcb-prepared) ARGUMENTS=(-b tpcb-like -M prepared) ;;
    connect) ARGUMENTS=(-S -C -M simple) ;;
    *) fail "no workload $1" ;;
    esac
}

# select_target NAME: sets URL, PID (empty: no proxy), ADMIN (empty: no cache).
select_target() {
    case "$1" in
    direct) URL="$DIRECT_URL" PID="" ADMIN="" ;;
    pgbouncer) URL="$BOUNCER_URL" PID="$BOUNCER_PID" ADMIN="" ;;
    forebay-off) URL="$OFF_URL" PID="$OFF_PID" ADMIN="" ;;
    forebay-cold | forebay-warm) URL="$FOREBAY_URL" PID="$FOREBAY_PID" ADMIN="$ADMIN_URL" ;;
    *) fail "no target $1" ;;
    esac
}

# CPU nanoseconds of all threads of a process. The kernel's ticks of 10 ms would be too coarse.
cpu_ns() { cat "/proc/$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }
peak_kb() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }
# Starts the peak anew; where the kernel forbids it, the peak since start is reported.
reset_peak() { { echo 5 >"/proc/$1/clear_refs"; } 2>/dev/null || true; }

bench() {
    timeout --kill-after=5 "$((SECONDS_EACH + 30))" "$PG_BIN/pgbench" -n "$@" "$URL" </dev/null
}

# logins_ns WORKLOAD CLIENTS: sets LOGINS_NS, what the proxy spends on letting that many clients in.
# A password takes milliseconds to check, which sixty-four clients would add to a short run.
logins_ns() {
    LOGINS_NS=0
    if [ -z "$PID" ] || [ "$1" = connect ]; then return; fi
    local before
    before="$(cpu_ns "$PID")"
    bench -c "$2" -t 1 -f "$here/login.sql" >/dev/null 2>&1 || return 0
    LOGINS_NS="$(($(cpu_ns "$PID") - before))"
}

# measure ROUND WORKLOAD TARGET CLIENTS: one run, one line in $results.
measure() {
    local round="$1" workload="$2" target="$3" clients="$4" status=0 jobs=2
    local logs="$SCRATCH/logs" cpu_before=0 cpu_after=0 peak=0 hits=0 misses=0
    [ "$clients" -ge 2 ] || jobs=1
    workload_arguments "$workload"
    select_target "$target"
    case "$workload:$target" in
    *-prepared:pgbouncer) if ! bouncer_prepares; then
        record "$round" "$workload" "$target" "$clients" unsupported
        return
    fi ;;
    esac
    logins_ns "$workload" "$clients"
    if [ -n "$ADMIN" ]; then
        "$PG_BIN/psql" -q "$ADMIN" -c 'FLUSH CACHE' >/dev/null
        if [ "$target" = forebay-warm ]; then
            bench -c "$clients" -j "$jobs" -T "$((SECONDS_EACH > 3 ? 3 : SECONDS_EACH))" "${ARGUMENTS[@]}" >"$SCRATCH/warm.out" 2>&1 || true
        fi
        hits="$(cache_counter hits)" misses="$(cache_counter misses)"
    fi
    rm -rf "$logs" && mkdir "$logs"
    if [ -n "$PID" ]; then reset_peak "$PID" && cpu_before="$(cpu_ns "$PID")"; fi
    bench -c "$clients" -j "$jobs" -T "$SECONDS_EACH" -l --log-prefix="$logs/run" \
        --sampling-rate="$SAMPLING" "${ARGUMENTS[@]}" >"$SCRATCH/run.out" 2>"$SCRATCH/run.err" || status=$?
    if [ -n "$PID" ]; then cpu_after="$(cpu_ns "$PID")" peak="$(peak_kb "$PID")"; fi
    if [ -n "$ADMIN" ]; then
        hits="$(($(cache_counter hits) - hits))" misses="$(($(cache_counter misses) - misses))"
    fi
    case "$status" in
    0) record "$round" "$workload" "$target" "$clients" ok "$((cpu_after - cpu_before - LOGINS_NS))" "$peak" "$hits" "$misses" ;;
    124 | 137) record "$round" "$workload" "$target" "$clients" hangs ;;
    *)
        say "    pgbench: $(grep -m1 -E 'error|FATAL|abort' "$SCRATCH/run.err" || tail -1 "$SCRATCH/run.err")" >&2
        record "$round" "$workload" "$target" "$clients" fails
        ;;
    esac
}

# record ROUND WORKLOAD TARGET CLIENTS STATUS [CPU_NS PEAK_KB HITS MISSES]
record() {
    local line
    line="$(python3 "$here/table.py" line "$SCRATCH/run.out" "$SCRATCH/logs" "$@")"
    printf '%s\n' "$line" >>"$results"
    printf '  round %s  %-17s %-13s %3s clients  %s\n' "$1" "$2" "$3" "$4" "$(python3 "$here/table.py" brief "$line")" >&2
}

# rotate N word …: the words, beginning N places further on.
rotate() {
    local by="$1" count
    shift
    count=$#
    local words=("$@" "$@")
    ROTATED=("${words[@]:by % count:count}")
}

describe_machine() {
    printf 'date=%s\n' "$(date -u +%Y-%m-%d)"
    printf 'cores=%s\n' "$(nproc)"
    printf 'memory=%s\n' "$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)"
    printf 'cpu=%s\n' "$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
    printf 'kernel=%s\n' "$(uname -sr)"
    printf 'postgresql=%s\n' "$("$PG_BIN/postgres" --version | grep -oE '[0-9]+(\.[0-9]+)+' | head -1)"
    printf 'pgbouncer=%s\n' "${BOUNCER_VERSION:-not run}"
    printf 'forebay=%s\n' "$(sed -n 's/^version = "\(.*\)"/\1/p' "$REPO/Cargo.toml" | head -1) $(git -C "$REPO" rev-parse --short HEAD 2>/dev/null || true)"
    printf 'rounds=%s\nseconds=%s\nscale=%s\n' "$ROUNDS" "$SECONDS_EACH" "$SCALE"
}

needed=(postgres python)
if wants pgbouncer; then needed+=(pgbouncer); fi
if wants forebay && [ -z "$built" ]; then needed+=(build); fi
require "${needed[@]}"
if wants forebay && [ -z "$built" ]; then
    step "building Forebay"
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi

make_scratch
results="$SCRATCH/results.jsonl"
step "starting servers, loading ${SCALE}00,000 accounts" >&2
# Without waiting for the disk: TPC-B would measure fsync, the same for every target.
start_postgres 'synchronous_commit = off' 'autovacuum = off' 'max_wal_size = 4GB'
if wants pgbouncer; then start_pgbouncer; fi
# PgBouncer is started without lines for logins and ends of clients too.
printf '[log]\nlog_connections = false\nlog_disconnections = false\n' >"$SCRATCH/quiet.toml"
if wants forebay-off; then
    # shellcheck disable=SC2086 # several words
    start_forebay --config "$SCRATCH/quiet.toml" $FOREBAY_OFF_ARGS
    OFF_URL="$FOREBAY_URL" OFF_PID="$FOREBAY_PID"
fi
if wants forebay-cold || wants forebay-warm; then start_forebay --config "$SCRATCH/quiet.toml"; fi
"$PG_BIN/pgbench" -i -q -s "$SCALE" "$DIRECT_URL" >"$SCRATCH/load.out" 2>&1 || { cat "$SCRATCH/load.out" >&2 && fail "pgbench -i failed"; }
"$PG_BIN/psql" -q "$DIRECT_URL" -c 'VACUUM ANALYZE'

read -ra targets <<<"$TARGETS"
count=0
for ((round = 1; round <= ROUNDS; round++)); do
    for workload in $WORKLOADS; do
        for clients in $CLIENTS; do
            # Its point is more clients than servers, each holding a transaction.
            if [ "$workload" = tpcb-prepared ] && [ "$clients" -le 20 ]; then continue; fi
            count=$((count + 1))
            rotate "$((round + count))" "${targets[@]}"
            for target in "${ROTATED[@]}"; do measure "$round" "$workload" "$target" "$clients"; done
        done
    done
done

describe_machine >"$SCRATCH/machine"
python3 "$here/table.py" table "$results" "$SCRATCH/machine" >"$SCRATCH/RESULTS.md"
cat "$SCRATCH/RESULTS.md"
if [ "$write" = yes ]; then
    cp "$SCRATCH/RESULTS.md" "$REPO/bench/RESULTS.md"
    say "written to bench/RESULTS.md" >&2
fi
