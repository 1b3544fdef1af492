#!/usr/bin/env bash
# Whether the checker would notice: Forebays that are wrong on purpose, each of which has to fail it.
# usage: tests/twins.sh [twin …]     those of groups by default; the names are in src/twin.rs
#
#   TWIN_SECONDS=120                 how long each may go unnoticed; who is noticed later was not
#   CHECKER_LOGS=directory           where what the checker and its members said is left, by twin
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

OF_GROUPS=(no_lease_check no_incarnation_check marks_cleared_after_crash asynchronous_invalidation)
if [ $# -eq 0 ]; then set -- "${OF_GROUPS[@]}"; fi

require build postgres redis python
target="${CARGO_TARGET_DIR:-target}/debug"
seconds="${TWIN_SECONDS:-120}"
cargo build --quiet --features twins --bin forebay
cargo build --quiet --example checker
make_scratch
# Whatever is built next has the same name.
cp "$target/forebay" "$SCRATCH/forebay"
unnoticed=()
for twin in "$@"; do
    mode=()
    case " ${OF_GROUPS[*]} " in *" $twin "*) mode=(--group) ;; esac
    logs="${CHECKER_LOGS:-$SCRATCH}/$twin"
    mkdir -p "$logs"
    status=0
    FOREBAY_TWIN="$twin" FOREBAY_BIN="$SCRATCH/forebay" CHECKER_BIN="$target/examples/checker" CHECKER_LOGS="$logs" \
        tests/checker.sh "$seconds" "${mode[@]}" --stop-at-violation >"$logs/checker.log" 2>&1 || status=$?
    # The checker stops when its time is over; what is judged after that comes too late.
    seen="$(grep -m 1 '^VIOLATION' "$logs/checker.log" || true)"
    after="$(sed -nE 's/^VIOLATION seed [0-9]+, after ([0-9]+) s,.*/\1/p' <<<"$seen")"
    if [ "$status" != 0 ] && [ -n "$after" ] && [ "$after" -lt "$seconds" ]; then
        say "$twin: $seen"
    else
        say "$twin: not noticed within $seconds s"
        tail -5 "$logs/checker.log"
        unnoticed+=("$twin")
    fi
done
[ ${#unnoticed[@]} = 0 ] || fail "not noticed: ${unnoticed[*]}"
