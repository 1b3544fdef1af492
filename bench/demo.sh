#!/usr/bin/env bash
# What Forebay does, in about a minute: the same reads with and without it, then a write.
# usage: bench/demo.sh [--keep]     --keep leaves everything running to be tried by hand
#
# Builds Forebay, starts a throwaway PostgreSQL and one Forebay in front of it, no Redis.
# FOREBAY_BIN=path uses a program that is already built; SECONDS_EACH=5 is the length of a run.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../tests/lib.sh"

SECONDS_EACH="${SECONDS_EACH:-5}"
CLIENTS=16
keep=no
case "${1:-}" in
--keep) keep=yes ;;
"") ;;
*) fail "usage: bench/demo.sh [--keep]" ;;
esac

# run_reads URL pgbench-argument …: sets TPS and LATENCY_MS.
run_reads() {
    local url="$1" out="$SCRATCH/pgbench.out"
    shift
    "$PG_BIN/pgbench" -n -c "$CLIENTS" -j 2 -T "$SECONDS_EACH" "$@" "$url" </dev/null >"$out" 2>&1 ||
        { tail -5 "$out" >&2 && fail "pgbench failed"; }
    TPS="$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$out")"
    LATENCY_MS="$(sed -n 's/^latency average = \([0-9.]*\) ms/\1/p' "$out")"
}

# compare NAME pgbench-argument …: direct and through Forebay; appends a line to the table.
compare() {
    local name="$1" direct_tps direct_ms hits misses
    shift
    say "    directly, $SECONDS_EACH s"
    run_reads "$DIRECT_URL" "$@"
    direct_tps="$TPS" direct_ms="$LATENCY_MS"
    say "    through Forebay, $SECONDS_EACH s, beginning with an empty cache"
    hits="$(cache_counter hits)" misses="$(cache_counter misses)"
    run_reads "$FOREBAY_URL" "$@"
    hits="$(($(cache_counter hits) - hits))" misses="$(($(cache_counter misses) - misses))"
    TABLE+="$(awk -v name="$name" -v dt="$direct_tps" -v ft="$TPS" -v dl="$direct_ms" -v fl="$LATENCY_MS" \
        -v h="$hits" -v m="$misses" 'BEGIN {
            printf "%-34s %9.0f %9.0f %6.1fx %9.3f %9.3f %7.1f %%", name, dt, ft, ft / dt, dl, fl,
                (h + m > 0) ? 100 * h / (h + m) : 0 }')"$'\n'
}

ask() { "$PG_BIN/psql" -XAtq "$@"; }

needed=(postgres python)
[ -n "$built" ] || needed+=(build)
require "${needed[@]}"
if [ -z "$built" ]; then
    step "building Forebay (the first time takes some minutes)"
    (cd "$REPO" && cargo build --release --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi

started="$SECONDS"
make_scratch
step "starting PostgreSQL and Forebay"
start_postgres
start_forebay
say "    PostgreSQL on port $PG_PORT, Forebay in front of it; its first words:"
sed 's/^/    | /' "$FOREBAY_LOG"

step "loading a million accounts (pgbench -i -s 10)"
"$PG_BIN/pgbench" -i -q -s 10 "$DIRECT_URL" >"$SCRATCH/load.out" 2>&1 || { cat "$SCRATCH/load.out" >&2 && fail "pgbench -i failed"; }

TABLE=""
step "point reads: pgbench -S over 1,000 accounts, $CLIENTS clients"
compare "pgbench -S, 1,000 accounts" -S -D scale=0.01
step "an aggregate over 1,001 rows with a hundred parameters, $CLIENTS clients"
compare "aggregate, 100 parameters" -f "$here/pgbench/aggregate.sql"

step "what it did ($CLIENTS clients, $(nproc) cores shared by pgbench, PostgreSQL and Forebay)"
printf '%-34s %19s %7s %19s %9s\n' '' 'transactions/s' '' 'latency ms' ''
printf '%-34s %9s %9s %7s %9s %9s %9s\n' '' direct Forebay ratio direct Forebay hits
printf '%s' "$TABLE"

step "a write, and the next read"
read_balance="SELECT abalance FROM pgbench_accounts WHERE aid = 42"
for _ in 1 2 3; do before="$(ask "$FOREBAY_URL" -c "$read_balance")"; done
hits="$(cache_counter hits)"
ask "$FOREBAY_URL" -c "$read_balance" >/dev/null
say "    the balance of account 42 is $before; that read was $([ "$(cache_counter hits)" -gt "$hits" ] && echo "a hit: PostgreSQL was not asked" || echo "not a hit")"
say "    UPDATE pgbench_accounts SET abalance = abalance + 1000 WHERE aid = 42, through Forebay"
ask "$FOREBAY_URL" -c "UPDATE pgbench_accounts SET abalance = abalance + 1000 WHERE aid = 42"
after="$(ask "$FOREBAY_URL" -c "$read_balance")"
direct="$(ask "$DIRECT_URL" -c "$read_balance")"
say "    the next read through Forebay says $after, PostgreSQL itself says $direct"
if [ "$after" != "$direct" ] || [ "$after" != "$((before + 1000))" ]; then fail "that is a stale answer"; fi
say "    fresh: a client that has been told of a commit never reads from before it"
say ""
say "done in $((SECONDS - started)) s"

if [ "$keep" = yes ]; then
    trap - EXIT INT TERM
    cat <<KEPT

Everything is left running. Try:
    psql '$FOREBAY_URL'          through Forebay
    psql '$DIRECT_URL'          PostgreSQL directly
    psql '$ADMIN_URL' -c 'SHOW CACHE'          the console; also SHOW HELP, SHOW STATEMENTS
and to end it:
    kill ${STARTED_PIDS[*]}; $(is_root && echo "setpriv --reuid=postgres --regid=postgres --clear-groups -- ")$PG_BIN/pg_ctl -D ${STARTED_CLUSTERS[0]} -m fast stop; rm -r $SCRATCH
KEPT
fi
