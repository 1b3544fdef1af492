#!/usr/bin/env bash
# Has every hit compared with PostgreSQL's answer, and every commit asked what it wrote, under the
# drivers, pgbench and the checker: no answer may differ, and no table may be overlooked. Then has
# every commit of the suite asked, too.
# usage: tests/verify.sh [part …]     parts: drivers pgbench checker suite; all of them by default
#
# CHECKER_SECONDS=60 and PGBENCH_SECONDS=10 are how long each run of theirs lasts.
# shellcheck disable=SC2119,SC2153 # servers are started without further settings; lib.sh sets URLs
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/lib.sh"

PARTS=(drivers pgbench checker suite)
if [ $# -gt 0 ]; then PARTS=("$@"); fi
CHECKER_SECONDS="${CHECKER_SECONDS:-60}"
PGBENCH_SECONDS="${PGBENCH_SECONDS:-10}"
export FOREBAY_VERIFY=1 FOREBAY_AUDIT=1

# Fails if there is a difference, an overlooked table, or nothing that was compared.
judge() {
    local verified
    verified="$(cache_counter verified)"
    printf '%-10s verified %s the same, %s in another order, %s incomparable, %s different; %s looked up\n' "$1" "$verified" \
        "$(cache_counter other_order)" "$(cache_counter incomparable)" "$(cache_counter differences)" "$(cache_counter misses)"
    printf '%-10s asked before %s commits: %s tables made fresh, %s of them for nothing, %s overlooked\n' "$1" \
        "$(cache_counter asked_known)" "$(cache_counter asked_tables)" "$(cache_counter surplus)" "$(cache_counter unforeseen)"
    if [ "$(cache_counter differences)" != 0 ]; then
        "$PG_BIN/psql" -x "$ADMIN_URL" -c 'SHOW CACHE_DIFFERENCES'
        fail "$1: hits would have differed"
    fi
    [ "$(cache_counter unforeseen)" = 0 ] || { grep 'not going to be made fresh' "$FOREBAY_LOG" && fail "$1: tables were overlooked"; }
    [ "$verified" -gt 0 ] || fail "$1: nothing was compared"
}

# A Forebay of its own, so that its counters are those of one part.
start_verifying() {
    proof_settings >"$SCRATCH/forebay.toml"
    start_forebay "$SCRATCH/forebay.toml"
}

part_drivers() { "$here/drivers/run.sh"; }

part_pgbench() {
    local protocol
    "$PG_BIN/pgbench" -i -q -s 1 "$DIRECT_URL" >"$SCRATCH/load.log" 2>&1 || { cat "$SCRATCH/load.log" && fail "pgbench -i failed"; }
    start_verifying
    # pgbench's own reads hardly ever read a row twice within a short run.
    printf '\\set aid random(1, 100)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n%s\n' \
        'SELECT count(*), sum(bbalance) FROM pgbench_branches;' >"$SCRATCH/few.sql"
    for protocol in simple extended prepared; do
        "$PG_BIN/pgbench" -n -c 8 -T "$PGBENCH_SECONDS" -M "$protocol" -b select-only -f "$SCRATCH/few.sql" "$FOREBAY_URL"
        "$PG_BIN/pgbench" -n -c 8 -T "$PGBENCH_SECONDS" -M "$protocol" -b tpcb-like -f "$SCRATCH/few.sql@9" "$FOREBAY_URL"
    done 2>&1 | grep -E '^(transaction type|number of (transactions|failed)|pgbench: (error|fatal))' || fail "pgbench did not run"
    judge pgbench
}

part_checker() {
    (cd "$REPO" && cargo build --quiet --example checker)
    start_verifying
    "${CARGO_TARGET_DIR:-$REPO/target}/debug/examples/checker" --url "$FOREBAY_URL" --direct "$DIRECT_URL" \
        --admin "$ADMIN_URL" --seconds "$CHECKER_SECONDS"
    judge checker
}

# Its tests say which answers are hits, so those are not compared. `FOREBAY_AUDIT` alone does it.
part_suite() { (cd "$REPO" && cargo test --test suite); }

require build postgres redis
make_scratch
[ -n "$built" ] || (cd "$REPO" && cargo build --quiet --bin forebay)
start_postgres
for part in "${PARTS[@]}"; do
    declare -F "part_$part" >/dev/null || fail "no part $part"
    step "verify: $part"
    "part_$part"
done
