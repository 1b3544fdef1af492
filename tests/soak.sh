#!/usr/bin/env bash
# Connects, disconnects, cancels, kills, restarts of PostgreSQL and reloads under load; then counts.
# usage: tests/soak.sh [SECONDS]     120 by default
#
# FOREBAY_BIN names the program, by default the debug build; SOAK_SEED repeats a run's dice.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

require build postgres python
[ -x "$FOREBAY_BIN" ] || cargo build --quiet --bin forebay
make_scratch
start_postgres
# Trust, so that the clients need no SCRAM; a failed login is tried again soon, since PostgreSQL
# is restarted all the time.
printf '[auth]\nauth_type = "trust"\n[server]\nserver_login_retry = "100ms"\n[log]\nlog_connections = false\nlog_disconnections = false\n' \
    >"$SCRATCH/soak.toml"
start_forebay --config "$SCRATCH/soak.toml"
port() { local rest="${1##*@*:}"; printf '%s' "${rest%%/*}"; }
restart="$PG_BIN/pg_ctl -D ${STARTED_CLUSTERS[0]} -w -s -m immediate -l $SCRATCH/restart.log restart"
if is_root; then
    touch "$SCRATCH/restart.log" && chown postgres "$SCRATCH/restart.log"
    restart="setpriv --reuid=postgres --regid=postgres --clear-groups -- $restart"
fi
python3 tests/soak.py "${1:-120}" 127.0.0.1 "$(port "$FOREBAY_URL")" "$(port "$ADMIN_URL")" "$DB_USER" \
    "$DB_NAME" "$FOREBAY_PID" "$restart" "$PG_BIN/psql -XAtq $DIRECT_URL"
