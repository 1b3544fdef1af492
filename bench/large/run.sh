#!/usr/bin/env bash
# What a large result costs a proxy: CPU, system calls, and memory while its reader is slow.
# usage: bench/large/run.sh [--write]     --write also stores the table in bench/LARGE.md
#
#   MEGABYTES=200 ROUNDS=5               how much is read, how often
#   PGBOUNCER=path FOREBAY_BIN=path      what is measured
#   EARLIER_BIN=path                     an earlier Forebay, measured beside it
#
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

MEGABYTES="${MEGABYTES:-200}"
ROUNDS="${ROUNDS:-5}"
require postgres python pgbouncer strace
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
make_scratch
start_postgres 'autovacuum = off' 'fsync = off'
# As a row on the wire: 200 bytes, and 20,000.
"$PG_BIN/psql" -q "$DIRECT_URL" <<SQL
CREATE TABLE short AS SELECT repeat('x', 189) AS line FROM generate_series(1, $MEGABYTES * 5000);
CREATE TABLE long (page text);
ALTER TABLE long ALTER COLUMN page SET STORAGE EXTERNAL;
INSERT INTO long SELECT repeat('x', 19989) FROM generate_series(1, $MEGABYTES * 50);
VACUUM ANALYZE;
SQL
printf '[auth]\nauth_type = "trust"\n' >"$SCRATCH/large.toml"
start_pgbouncer 'auth_type = trust'
targets=("PgBouncer $BOUNCER_VERSION=$BOUNCER_URL=$BOUNCER_PID")
if [ -n "${EARLIER_BIN:-}" ]; then
    now="$FOREBAY_BIN"
    FOREBAY_BIN="$EARLIER_BIN"
    start_forebay --config "$SCRATCH/large.toml" --no-cache
    targets+=("earlier Forebay, cache off=$FOREBAY_URL=$FOREBAY_PID")
    FOREBAY_BIN="$now"
fi
start_forebay --config "$SCRATCH/large.toml" --no-cache
targets+=("Forebay, cache off=$FOREBAY_URL=$FOREBAY_PID")
start_forebay --config "$SCRATCH/large.toml"
targets+=("Forebay, cache on=$FOREBAY_URL=$FOREBAY_PID")
python3 "$here/large.py" "$MEGABYTES" "$ROUNDS" "$DB_USER" "$DB_NAME" "${targets[@]}" | tee "$SCRATCH/large.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/large.md" "$REPO/bench/LARGE.md"; fi
