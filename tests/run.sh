#!/usr/bin/env bash
# Everything that is checked before a change is accepted, with one line of result per part.
# usage: tests/run.sh [part …]     parts: scripts format clippy architecture unit simulation suite
#                                  page docker drivers checker group verify soak; all of them by default
#
# On Debian as root it installs what is missing; elsewhere it says what to install.
# CHECKER_SECONDS=60 is how long the checker reads and writes (group: twice as long), SOAK_SECONDS=120 how long the soak lasts.
# shellcheck disable=SC2119,SC2153 # servers are started without further settings; lib.sh sets URLs
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

PARTS=(scripts format clippy architecture unit simulation suite page docker drivers checker group verify soak)
if [ $# -gt 0 ]; then PARTS=("$@"); fi
CHECKER_SECONDS="${CHECKER_SECONDS:-60}"
SOAK_SECONDS="${SOAK_SECONDS:-120}"

# Warnings are errors here, but only of our own code: a flag for all crates would rebuild them all.
part_scripts() {
    local script
    for script in tests/*.sh tests/drivers/*.sh bench/*.sh bench/*/*.sh .ci/run; do bash -n "$script"; done
    if command -v shellcheck >/dev/null; then
        shellcheck -x tests/*.sh tests/drivers/*.sh bench/*.sh bench/*/*.sh .ci/run
    else
        say "shellcheck is not installed: syntax alone was checked"
    fi
    python3 bench/pgbench/table.py self-test
}
part_format() { cargo fmt --check; }
part_clippy() { cargo clippy --all-targets --quiet -- -D warnings; }
part_architecture() { cargo test --test architecture; }
part_unit() { cargo test --lib --bins --example wire; }
part_simulation() { cargo test --test simulation; }
# It has promtool read the metrics where there is one, and a group over Valkey.
part_suite() {
    wish promtool
    find_valkey || say "Valkey is not installed, nor to be had from PyPI: a group over it was not tested"
    cargo test --test suite
}
# The page in headless Chromium.
part_page() {
    wish chromium
    if command -v chromium >/dev/null; then
        tests/page.sh
    else
        say "chromium is not installed: the page was not looked at"
    fi
}
part_docker() { python3 tests/docker.py; }
part_drivers() { tests/drivers/run.sh; }
# Everything that may be read and written, and everything that goes wrong meanwhile; the long form
# is in tests/checker.sh.
part_checker() { tests/checker.sh "$CHECKER_SECONDS"; }
# The same of three that answer as one: twice as long, with a while between two faults, so that every
# fault has its turn and there is something to hit between them. 30 per cent of hits are asked of half an
# hour; here it is as the dice fall, and what is asked shows that there were hits at all.
part_group() {
    CHECKER_PAUSE_MS="${CHECKER_PAUSE_MS:-2500}" tests/checker.sh "$((CHECKER_SECONDS * 2))" --group --require-hits 20
}

# Every hit compared with PostgreSQL's answer, every commit asked what it wrote; `tests/verify.sh` alone
# does so under all drivers and the whole suite too.
part_verify() { PGBENCH_SECONDS=5 tests/verify.sh pgbench checker; }

# Two minutes of everything going wrong; `tests/soak.sh 3600` is the long form.
part_soak() { tests/soak.sh "$SOAK_SECONDS"; }

require build postgres redis python venv yaml node
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component" >/dev/null 2>&1 ||
        fail "missing: cargo ${component/rustfmt/fmt} (rustup component add $component)"
done

passed=() failed=() report=()
for part in "${PARTS[@]}"; do
    declare -F "part_$part" >/dev/null || fail "no part $part"
    printf '\n======== %s\n' "$part"
    started="$SECONDS"
    # A child of its own: `set -e` does not hold in a function whose status is asked for.
    # As a condition, or before ||, it would run on past its own errors: bash then ignores `set -e`.
    set +e
    (set -e; "part_$part") </dev/null
    status=$?
    set -e
    if [ "$status" = 0 ]; then passed+=("$part"); else failed+=("$part"); fi
    report+=("$(printf '%-14s %-7s %5d s' "$part" "$([ "$status" = 0 ] && echo passed || echo FAILED)" "$((SECONDS - started))")")
    printf -- '-------- %s\n' "${report[-1]}"
done

printf '\n======== summary\n'
printf '%s\n' "${report[@]}"
printf '%d passed, %d failed\n' "${#passed[@]}" "${#failed[@]}"
[ ${#failed[@]} = 0 ]
