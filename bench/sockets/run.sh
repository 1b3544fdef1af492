#!/usr/bin/env bash
# What Unix sockets save: CPU of Forebay and transactions/s over TCP, with a Unix socket towards the
# client, towards PostgreSQL, and on both sides.
# usage: bench/sockets/run.sh [--write]     --write also stores the table in bench/SOCKETS.md
#
#   ROUNDS=7 SECONDS_EACH=2 CLIENTS=16   how much is measured
#   FOREBAY_BIN=path                     default: target/release/forebay, built first
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

require postgres python
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/sockets/run.sh [--write]" ;;
esac
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
make_scratch
start_postgres
"$PG_BIN/pgbench" -q -i -s 10 "$DIRECT_URL" >/dev/null 2>&1
over_tcp="$DIRECT_URL"
directory="$SCRATCH/postgres.0"
over_unix="postgres://$DB_USER:$DB_PASSWORD@${directory//\//%2F}:$PG_PORT/$DB_NAME"
# Of the cluster's user, and we may be root.
chmod 755 "$SCRATCH" "$directory"

# target NAME SERVER_URL SIDE: starts a Forebay in front of that; SIDE is how clients come, tcp or unix.
target() {
    local sockets port
    sockets="$(mktemp -d "$SCRATCH/sockets.XXXXXX")"
    printf '[listen]\nunix_socket_dir = "%s"\n[cache]\nmode = "%s"\n' "$sockets" "$CACHE" >"$sockets/toml"
    DIRECT_URL="$2"
    start_forebay --config "$sockets/toml"
    if [ "$3" = unix ]; then
        port="${FOREBAY_URL##*:}"
        FOREBAY_URL="postgres://$DB_USER:$DB_PASSWORD@${sockets//\//%2F}:${port%%/*}/$DB_NAME"
    fi
    targets+=("$1=$FOREBAY_URL=$FOREBAY_PID")
}

targets=()
CACHE=off
target "relayed, TCP on both sides" "$over_tcp" tcp
target "relayed, Unix towards clients" "$over_tcp" unix
target "relayed, Unix towards PostgreSQL" "$over_unix" tcp
target "relayed, Unix on both sides" "$over_unix" unix
CACHE=on
target "hit, TCP" "$over_tcp" tcp
target "hit, Unix" "$over_tcp" unix
python3 "$here/sockets.py" "$PG_BIN/pgbench" "${SECONDS_EACH:-2}" "${ROUNDS:-7}" "${CLIENTS:-16}" \
    "$here/../pgbench/hundred.sql" "${targets[@]}" >"$SCRATCH/sockets.md"
cat "$SCRATCH/sockets.md"
if [ "${1:-}" = --write ]; then cp "$SCRATCH/sockets.md" "$REPO/bench/SOCKETS.md"; fi
