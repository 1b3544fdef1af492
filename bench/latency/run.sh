#!/usr/bin/env bash
# How long answers take when requests come at a rate and do not wait for each other (open loop), up
# to the rate that can no longer be borne.
# usage: bench/latency/run.sh [--write]     --write also stores bench/LATENCY.md and bench/latency.svg
#
#   RATES="1000 2000 …" PROTOCOL=simple CLIENTS=64 SECONDS_EACH=1 ROUNDS=5   how much is measured
#   PGBOUNCER=path FOREBAY_BIN=path WIRE_BIN=path     what is measured, and by what (bench/wire)
#
# At each rate the targets run in turn, beginning with another one each round.
# shellcheck disable=SC2119,SC2153 # servers are started without further settings; lib.sh sets URLs
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

read -ra rates <<<"${RATES:-500 1000 2000 4000 6000 8000 10000 12000 14000 16000 20000 25000 30000 40000 50000 60000 80000}"
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/latency/run.sh [--write]" ;;
esac
require postgres python pgbouncer
if [ -z "$built" ] || [ -z "${WIRE_BIN:-}" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay --example wire)
    FOREBAY_BIN="${built:-$REPO/target/release/forebay}"
    WIRE_BIN="${WIRE_BIN:-$REPO/target/release/examples/wire}"
fi
make_scratch
start_postgres 'autovacuum = off'
"$PG_BIN/pgbench" -q -i -s 1 "$DIRECT_URL" >/dev/null 2>&1
"$PG_BIN/psql" -q "$DIRECT_URL" -c 'VACUUM ANALYZE'
start_pgbouncer
start_forebay --no-cache
off="$FOREBAY_URL"
start_forebay
python3 "$here/latency.py" "$WIRE_BIN" "${PROTOCOL:-simple}" "${CLIENTS:-64}" "${SECONDS_EACH:-1}" "${ROUNDS:-5}" \
    "$SCRATCH/latency.svg" "PostgreSQL=$DIRECT_URL" "PgBouncer $BOUNCER_VERSION=$BOUNCER_URL" \
    "Forebay, cache off=$off" "Forebay, hits=$FOREBAY_URL" -- "${rates[@]}" | tee "$SCRATCH/latency.md"
if [ "${1:-}" = --write ]; then
    cp "$SCRATCH/latency.md" "$REPO/bench/LATENCY.md"
    cp "$SCRATCH/latency.svg" "$REPO/bench/latency.svg"
fi
