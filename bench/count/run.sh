#!/usr/bin/env bash
# Counts per transaction, instead of times: system calls, context switches, instructions, allocations
# and bytes copied, of Forebay and of PgBouncer.
# usage: bench/count/run.sh [--write]     --write also stores the tables in bench/COUNTS.md
#
#   COUNT=1600 ROUNDS=2                 how much is counted; rounds tell how repeatable it is
#   TARGETS="relayed hit miss bouncer" PROTOCOLS="simple extended prepared" CLIENTS="1 16"
#   KINDS="calls switches user heap copy"
#   PGBOUNCER=path FOREBAY_BIN=path     what is counted; default: target/release/forebay, built first
#
# Each figure is what a run of twice COUNT transactions took more than one of COUNT, so that logins fall
# out of it.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"
# shellcheck source=bench/lib.sh
. "$here/../lib.sh"

COUNT="${COUNT:-1600}"
ROUNDS="${ROUNDS:-2}"
TARGETS="${TARGETS:-relayed hit miss bouncer}"
PROTOCOLS="${PROTOCOLS:-simple extended prepared}"
CLIENTS="${CLIENTS:-1 16}"
KINDS="${KINDS:-calls switches user heap copy}"
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/count/run.sh [--write]" ;;
esac
require postgres python pgbouncer strace valgrind
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
forebay="$FOREBAY_BIN" bouncer="$(command -v "${PGBOUNCER:-pgbouncer}")"
make_scratch
counts="$SCRATCH/counts"
mkdir "$counts"
start_postgres 'autovacuum = off'
"$PG_BIN/pgbench" -q -i -s 10 "$DIRECT_URL" >/dev/null 2>&1

wants() { case " $KINDS " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# start TARGET: sets URL and PID. What runs is `forebay` or `bouncer`, or WRAPPED in their place.
start() {
    case "$1" in
    relayed) FOREBAY_BIN="${WRAPPED:-$forebay}" start_forebay --no-cache ;;
    hit | miss) FOREBAY_BIN="${WRAPPED:-$forebay}" start_forebay ;;
    bouncer) PGBOUNCER="${WRAPPED:-$bouncer}" start_pgbouncer ;;
    esac
    case "$1" in
    bouncer) URL="$BOUNCER_URL" PID="$BOUNCER_PID" ;;
    *) URL="$FOREBAY_URL" PID="$FOREBAY_PID" ;;
    esac
}

# Stops what was started last, so that it says what it counted.
stop() {
    stop_pid "$PID"
    unset 'STARTED_PIDS[-1]'
}

base=0
# work TARGET PROTOCOL CLIENTS TRANSACTIONS: of all the clients together.
work() {
    local each="$(($4 / $3))" workload
    case "$1" in
    relayed | bouncer) workload=(-S) ;;
    hit) workload=(-f "$here/../pgbench/hundred.sql") ;;
    miss)
        workload=(-f "$here/miss.sql" -D n=0 -D "base=$base" -D "each=$each")
        base="$((base + $4))"
        ;;
    esac
    "$PG_BIN/pgbench" -n -M "$2" -c "$3" -j "$(($3 > 1 ? 2 : 1))" -t "$each" --random-seed=1 "${workload[@]}" \
        "$URL" >/dev/null 2>"$SCRATCH/pgbench.log" || { cat "$SCRATCH/pgbench.log" >&2 && fail "pgbench failed"; }
}

# Verdicts are made, the cache has all that is asked again, servers are there.
warm() { work "$1" "$2" "$3" "$(if [ "$1" = hit ]; then printf 960; else printf 96; fi)"; }

# traced FILE command …: system calls of PID meanwhile.
traced() {
    local file="$1" tracer deadline=$((SECONDS + 20))
    shift
    # What the one before has said is no sign of this one.
    rm -f "$SCRATCH/strace.log"
    strace -f -c -U name,calls,errors -o "$file" -p "$PID" 2>"$SCRATCH/strace.log" &
    tracer=$!
    STARTED_PIDS+=("$tracer")
    until grep -qs attached "$SCRATCH/strace.log"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "strace did not attach: $(cat "$SCRATCH/strace.log")"
        sleep 0.05
    done
    "$@"
    kill -INT "$tracer"
    wait "$tracer" 2>/dev/null || true
    unset 'STARTED_PIDS[-1]'
}

# switched FILE command …: context switches of PID meanwhile, as it chose and as it was made to.
switched() {
    local file="$1"
    shift
    switches "before" >"$file"
    "$@"
    switches "after" >>"$file"
}
switches() {
    awk -v when="$1" '/^voluntary/ { own += $2 } /^nonvoluntary/ { made += $2 } END { print when, own, made }' \
        "/proc/$PID/task/"*/status
}

# in_user_mode FILE command …: instructions of PID meanwhile.
in_user_mode() {
    local file="$1"
    shift
    instructions "$PID" "$VALGRIND_DIRECTORY" "$@"
    printf '%s\n' "$COUNTED" >"$file"
}

# both HOW NAME TARGET PROTOCOL CLIENTS: runs of COUNT and of twice as many, to two files.
both() {
    local how="$1" file="$counts/$2"
    shift 2
    "$how" "$file.once" work "$@" "$COUNT"
    "$how" "$file.twice" work "$@" "$((2 * COUNT))"
}

# dhat MODE FILE TARGET PROTOCOL TRANSACTIONS: its totals of a whole life, printed at its end.
dhat() {
    under_valgrind "$(program_of "$3")" --tool=dhat "--mode=$1" --dhat-out-file=/dev/null '--log-file=%q{OUT}/total'
    start "$3"
    warm "$3" "$4" 1
    work "$3" "$4" 1 "$5"
    stop
    sed -n 's/^.*Total: *//p' "$VALGRIND_DIRECTORY/total" >"$2"
    WRAPPED=""
}
program_of() { if [ "$1" = bouncer ]; then printf %s "$bouncer"; else printf %s "$forebay"; fi; }

# natively ROUND TARGET
natively() {
    local protocol clients
    WRAPPED="" start "$2"
    for protocol in $PROTOCOLS; do
        for clients in $CLIENTS; do
            warm "$2" "$protocol" "$clients"
            if wants calls; then both traced "$1.calls.$2.$protocol.$clients" "$2" "$protocol" "$clients"; fi
            if wants switches; then both switched "$1.switches.$2.$protocol.$clients" "$2" "$protocol" "$clients"; fi
        done
    done
    stop
}

# under_tools ROUND TARGET
under_tools() {
    local protocol mode
    if wants user; then
        under_callgrind "$(program_of "$2")"
        start "$2"
        for protocol in $PROTOCOLS; do
            warm "$2" "$protocol" 1
            both in_user_mode "$1.user.$2.$protocol.1" "$2" "$protocol" 1
        done
        stop
        WRAPPED=""
    fi
    for mode in heap copy; do
        if ! wants "$mode"; then continue; fi
        for protocol in $PROTOCOLS; do
            dhat "$mode" "$counts/$1.$mode.$2.$protocol.1.once" "$2" "$protocol" "$COUNT"
            dhat "$mode" "$counts/$1.$mode.$2.$protocol.1.twice" "$2" "$protocol" "$((2 * COUNT))"
        done
    done
}

for ((round = 1; round <= ROUNDS; round++)); do
    for target in $TARGETS; do
        say "  round $round of $ROUNDS: $target" >&2
        natively "$round" "$target"
        under_tools "$round" "$target"
    done
done
python3 "$here/count.py" "$counts" "$COUNT" "${BOUNCER_VERSION:-}" | tee "$SCRATCH/COUNTS.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/COUNTS.md" "$REPO/bench/COUNTS.md"; fi
