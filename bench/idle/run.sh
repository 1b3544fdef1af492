#!/usr/bin/env bash
# What idle clients cost: memory of each, and what they do to those that are busy.
# usage: bench/idle/run.sh [--write]     --write also stores the table in bench/IDLE.md
#
#   IDLE=10000 SECONDS_EACH=5 ROUNDS=3   how much is measured; of several counts in IDLE the later
#                                        use memory that the earlier left
#   PGBOUNCER=path FOREBAY_BIN=path      what is measured
#
# Sixty-four clients of pgbench -S run without idle ones and with them, in turn.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

read -ra counts <<<"${IDLE:-10000}"
SECONDS_EACH="${SECONDS_EACH:-5}"
ROUNDS="${ROUNDS:-3}"
require postgres python pgbouncer
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
ulimit -n "$(ulimit -Hn)"
make_scratch
start_postgres
"$PG_BIN/pgbench" -q -i -s 1 "$DIRECT_URL" >/dev/null 2>&1
printf '[auth]\nauth_type = "trust"\n[listen]\nmax_client_conn = 30000\n[log]\nlog_connections = false\nlog_disconnections = false\n' \
    >"$SCRATCH/idle.toml"
start_forebay --config "$SCRATCH/idle.toml" --no-cache
start_pgbouncer 'auth_type = trust' 'max_client_conn = 30000'
python3 "$here/idle.py" "$PG_BIN/pgbench" "$SECONDS_EACH" "$ROUNDS" "$DB_USER" "$DB_NAME" \
    "Forebay=$FOREBAY_URL=$FOREBAY_PID" "PgBouncer $BOUNCER_VERSION=$BOUNCER_URL=$BOUNCER_PID" -- "${counts[@]}" |
    tee "$SCRATCH/idle.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/idle.md" "$REPO/bench/IDLE.md"; fi
