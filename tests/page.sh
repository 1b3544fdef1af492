#!/usr/bin/env bash
# The page of the HTTP port in headless Chromium, in front of a throwaway PostgreSQL.
# usage: tests/page.sh [directory]      the directory gets screenshots
#
# FOREBAY_BIN=path uses a program that is already built.
# shellcheck disable=SC2119 # PostgreSQL is started without further settings
set -euo pipefail
cd "$(dirname "$0")/.."
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. tests/lib.sh

require postgres python chromium
[ -n "$built" ] || cargo build --quiet --bin forebay
make_scratch
start_postgres
port="$(free_port)"
start_forebay --http-listen "127.0.0.1:$port"
# The last claim ends it, and nobody is to be told.
disown "$FOREBAY_PID"
wait_for_port "$port" "$FOREBAY_PID" "$FOREBAY_LOG" "Forebay's page"
shots=()
[ $# = 0 ] || shots=("$1")
python3 tests/page.py "http://127.0.0.1:$port" "$ADMIN_URL" "$FOREBAY_URL" "$PG_BIN/psql" "$FOREBAY_PID" "${shots[@]}"
