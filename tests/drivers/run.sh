#!/usr/bin/env bash
# Runs the same workload with every driver, through Forebay and beside it, and compares answers.
# usage: tests/drivers/run.sh [driver …]     all drivers by default; see drivers.py for names
#
# Without FOREBAY_URL it starts PostgreSQL and FOREBAY_BIN (default target/debug/forebay, built
# first). With it, FOREBAY_URL, DIRECT_URL (the same database without Forebay) and, for hits,
# ADMIN_URL (the console) name running ones. FOREBAY_EXPECT_HITS=1 fails a driver that is served
# less than 30 % of its look-ups from the cache; FOREBAY_EXPECT_HITS=40 asks for 40 %.
#
# FOREBAY_VERIFY=1 asks PostgreSQL for every hit too: an answer that differs fails the driver, and
# Django must find 80 % of its look-ups. FOREBAY_AUDIT=1 asks it before every commit what was
# written: a table overlooked fails the driver, and more than 5 % made fresh for nothing fail Django.
# shellcheck disable=SC2119,SC2153 # servers are started without further settings; lib.sh sets URLs
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"

require build postgres python venv node
make_scratch

# Packages live beside the build's other products and are kept between runs.
packages="${FOREBAY_DRIVER_PACKAGES:-$REPO/target/drivers}"
if ! cmp -s "$here/requirements.txt" "$packages/requirements.txt"; then
    step "installing Python drivers"
    rm -rf "$packages/venv" && mkdir -p "$packages"
    python3 -m venv "$packages/venv"
    "$packages/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$packages/requirements.txt"
fi
if ! cmp -s "$here/package.json" "$packages/package.json" || [ ! -d "$packages/node_modules/pg" ]; then
    step "installing node-postgres"
    rm -rf "$packages/node_modules"
    cp "$here/package.json" "$packages/package.json"
    (cd "$packages" && npm install --silent --no-audit --no-fund </dev/null)
fi

step "building the tokio-postgres driver"
(cd "$REPO" && cargo build --quiet --example driver_tokio_postgres)

if [ -z "${FOREBAY_URL:-}" ]; then
    [ -n "$built" ] || (cd "$REPO" && cargo build --quiet --bin forebay)
    start_postgres
    proof_settings >"$SCRATCH/forebay.toml"
    start_forebay "$SCRATCH/forebay.toml"
fi
"$PG_BIN/psql" -q "$DIRECT_URL" -c 'SET client_min_messages = error' -c "DROP DATABASE IF EXISTS ${DB_NAME}_twin" \
    -c "CREATE DATABASE ${DB_NAME}_twin"

export FOREBAY_URL DIRECT_URL ADMIN_URL="${ADMIN_URL:-}" NODE_PATH="$packages/node_modules"
export DRIVER_PYTHON="$packages/venv/bin/python" PSQL="$PG_BIN/psql"
export DRIVER_RUST="${CARGO_TARGET_DIR:-$REPO/target}/debug/examples/driver_tokio_postgres"
"$DRIVER_PYTHON" "$here/drivers.py" "$@"
