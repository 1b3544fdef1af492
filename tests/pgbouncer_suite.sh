#!/usr/bin/env bash
# PgBouncer's own tests, run against Forebay.
# usage: tests/pgbouncer_suite.sh CHECKOUT [pytest option …]     such as -k test_copy
#
# CHECKOUT is a clone of PgBouncer's repository, kept outside this one; it is copied, not changed.
# tests/pgbouncer_suite.txt lists the tests that are known to fail, each with its reason; any
# other failure fails this script. FOREBAY_BIN names the program, by default the debug build.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

if [ ! -f "${1:-}/test/test.ini" ]; then
    fail "usage: tests/pgbouncer_suite.sh CHECKOUT [pytest option …]"
fi
CHECKOUT="$(cd "$1" && pwd)"
shift
require build postgres venv socat
make_scratch

if [ "$FOREBAY_BIN" = "$REPO/target/debug/forebay" ]; then
    step "building Forebay"
    cargo build --quiet
fi
step "preparing the tests"
cp -r "$CHECKOUT" "$SCRATCH/pgbouncer"
# What the tests want to know of a build: its options, in the file that `configure` writes.
rm -rf "$SCRATCH/pgbouncer/build"
printf 'tls_support = yes\nldap_support = no\n' >"$SCRATCH/pgbouncer/config.mak"
cp "$FOREBAY_BIN" "$SCRATCH/forebay"
# A Python of the system's own: others may live where the tests' user cannot read.
PYTHON=python3
[ ! -x /usr/bin/python3 ] || PYTHON=/usr/bin/python3
"$PYTHON" -m venv "$SCRATCH/venv"
"$SCRATCH/venv/bin/pip" install --quiet --disable-pip-version-check \
    pytest pytest-asyncio pytest-timeout pytest-xdist filelock 'psycopg[binary]==3.2.13'
mkdir "$SCRATCH/tmp"
chmod -R a+rX "$SCRATCH"
! is_root || chown -R postgres "$SCRATCH/pgbouncer" "$SCRATCH/tmp"

step "running them, which takes some minutes"
cd "$SCRATCH/pgbouncer/test"
# What fails is found in the report, not in this status.
unprivileged env PATH="$PG_BIN:$PATH" HOME="$SCRATCH/tmp" TMPDIR="$SCRATCH/tmp" LANG=C.UTF-8 \
    BOUNCER_EXE="$SCRATCH/forebay" "$SCRATCH/venv/bin/pytest" \
    -o asyncio_default_fixture_loop_scope=function -p no:cacheprovider --timeout 30 -q --tb=native --no-showlocals \
    --basetemp "$SCRATCH/tmp/pytest" --junitxml "$SCRATCH/tmp/report.xml" "$@" \
    >"$SCRATCH/tmp/output" 2>&1 || true
[ -f "$SCRATCH/tmp/report.xml" ] || { tail -40 "$SCRATCH/tmp/output" >&2; fail "the tests did not run"; }
cd "$REPO"
if [ -n "${OUTPUT:-}" ]; then cp "$SCRATCH/tmp/output" "$OUTPUT"; fi
python3 tests/pgbouncer_suite.py "$SCRATCH/tmp/report.xml" tests/pgbouncer_suite.txt
