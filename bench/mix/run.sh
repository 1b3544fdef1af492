#!/usr/bin/env bash
# Reads and writes mixed: what a cache is worth when tables are written all the time.
# usage: bench/mix/run.sh [--write]     --write also stores the table in bench/MIX.md
#
#   WRITES="1 5 20" CLIENTS=16 ROWS=1000 SECONDS_EACH=5 ROUNDS=3   how much is measured; writes in per cent
#   PGBOUNCER=path FOREBAY_BIN=path                                what is measured
#
# PostgreSQL itself, PgBouncer and Forebay run in turn, beginning with another one each round.
# shellcheck disable=SC2119,SC2153 # servers are started without further settings; lib.sh sets URLs
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

read -ra writes <<<"${WRITES:-1 5 20}"
require postgres python pgbouncer
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/mix/run.sh [--write]" ;;
esac
make_scratch
# Without waiting for the disk: that would be measured, and is the same for all.
start_postgres 'synchronous_commit = off' 'autovacuum = off' 'max_wal_size = 4GB'
"$PG_BIN/psql" -q "$DIRECT_URL" -v ON_ERROR_STOP=1 -v rows="${ROWS:-1000}" -f "$here/tables.sql"
start_forebay
start_pgbouncer
python3 "$here/mix.py" "$PG_BIN" "${CLIENTS:-16}" "${ROWS:-1000}" "${SECONDS_EACH:-5}" "${ROUNDS:-3}" \
    "$(head -1 "${STARTED_CLUSTERS[0]}/postmaster.pid")" "$ADMIN_URL" \
    "PostgreSQL=$DIRECT_URL=" "PgBouncer $BOUNCER_VERSION=$BOUNCER_URL=$BOUNCER_PID" \
    "Forebay=$FOREBAY_URL=$FOREBAY_PID" -- "${writes[@]}" | tee "$SCRATCH/mix.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/mix.md" "$REPO/bench/MIX.md"; fi
