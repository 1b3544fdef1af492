#!/usr/bin/env bash
# Memory per prepared statement and per cache entry.
# usage: bench/memory/run.sh [--write]     --write also stores the tables in bench/MEMORY.md
#
#   ENTRIES=200000 STATEMENTS=10000 CONNECTIONS=1000   how much is measured
#   PGBOUNCER=path FOREBAY_BIN=path                    what is measured
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/memory/run.sh [--write]" ;;
esac
STATEMENTS="${STATEMENTS:-10000}"
require postgres python pgbouncer
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
ulimit -n "$(ulimit -Hn)"
make_scratch
start_postgres 'autovacuum = off' 'synchronous_commit = off'
"$PG_BIN/pgbench" -q -i -s 10 "$DIRECT_URL" >/dev/null 2>&1

# Starts a Forebay of its own, so that one part leaves nothing to the next.
fresh() {
    {
        printf '[auth]\nauth_type = "trust"\n[listen]\nmax_client_conn = 5000\n'
        printf '[log]\nlog_connections = false\nlog_disconnections = false\n'
        printf '[cache]\nmax_age = "1h"\n'
        printf '[pool]\nmax_prepared_statements = %s\nmax_client_prepared_statements = %s\n' "$STATEMENTS" "$((2 * STATEMENTS))"
    } >"$SCRATCH/memory.toml"
    start_forebay --config "$SCRATCH/memory.toml"
}

{
    python3 "$here/memory.py" head
    for part in many shared; do
        fresh
        python3 "$here/memory.py" "$part" Forebay "$FOREBAY_URL" "$FOREBAY_PID" "$STATEMENTS" "${CONNECTIONS:-1000}"
    done
    for part in many shared; do
        start_pgbouncer 'auth_type = trust' 'max_client_conn = 5000' "max_prepared_statements = $STATEMENTS"
        python3 "$here/memory.py" "$part" "PgBouncer $BOUNCER_VERSION" "$BOUNCER_URL" "$BOUNCER_PID" "$STATEMENTS" "${CONNECTIONS:-1000}"
        stop_pid "$BOUNCER_PID"
        unset 'STARTED_PIDS[-1]'
    done
    fresh
    python3 "$here/memory.py" entries "$PG_BIN" "$FOREBAY_URL" "$ADMIN_URL" "$FOREBAY_PID" "${ENTRIES:-200000}" "$here/../count/miss.sql"
} >"$SCRATCH/memory.md" # No pipe: what is started is stopped by this shell.
cat "$SCRATCH/memory.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/memory.md" "$REPO/bench/MEMORY.md"; fi
