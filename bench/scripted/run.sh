#!/usr/bin/env bash
# One Forebay against one PgBouncer, each in front of a server that answers at once, so that
# PostgreSQL is not the limit.
# usage: bench/scripted/run.sh [--write]     --write also stores the tables in bench/SCRIPTED.md
#
#   CLIENTS="16 64" SECONDS_EACH=2 ROUNDS=5          how much is measured
#   PGBOUNCER=path FOREBAY_BIN=path WIRE_BIN=path    what is measured, and by what (bench/wire)
#
# The load, the proxy and the server share the cores. Targets run in turn, beginning with another
# one each round.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

read -ra clients <<<"${CLIENTS:-16 64}"
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/scripted/run.sh [--write]" ;;
esac
require python pgbouncer
if [ -z "$built" ] || [ -z "${WIRE_BIN:-}" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay --example wire)
    FOREBAY_BIN="${built:-$REPO/target/release/forebay}"
    WIRE_BIN="${WIRE_BIN:-$REPO/target/release/examples/wire}"
fi
make_scratch
PG_PORT="$(free_port)"
"$WIRE_BIN" serve --port "$PG_PORT" </dev/null >"$SCRATCH/serve.log" 2>&1 &
serve_pid=$!
STARTED_PIDS+=("$serve_pid")
wait_for_port "$PG_PORT" "$serve_pid" "$SCRATCH/serve.log" "the scripted server"
DIRECT_URL="postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$PG_PORT/$DB_NAME"
start_forebay --no-cache
start_pgbouncer
python3 "$here/scripted.py" "$WIRE_BIN" "${SECONDS_EACH:-2}" "${ROUNDS:-5}" "$serve_pid" \
    "no proxy=$DIRECT_URL=" "PgBouncer $BOUNCER_VERSION=$BOUNCER_URL=$BOUNCER_PID" \
    "Forebay=$FOREBAY_URL=$FOREBAY_PID" -- "${clients[@]}" | tee "$SCRATCH/scripted.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/scripted.md" "$REPO/bench/SCRIPTED.md"; fi
