#!/usr/bin/env bash
# What statistics cost: CPU of Forebay per transaction with all of them on and with all of them off.
# usage: bench/insight/run.sh [--write]     --write also stores the table in bench/INSIGHT.md
#
#   ROUNDS=15 SECONDS_EACH=2 CLIENTS=16   how much is measured
#   FOREBAY_BIN=path                      default: target/release/forebay, built first
#
# The two run in turn, each round in the other order; a round is compared with itself.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

require postgres python
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/insight/run.sh [--write]" ;;
esac
if [ -z "$built" ]; then
    require build
    (cd "$REPO" && cargo build --release --quiet --bin forebay)
    FOREBAY_BIN="$REPO/target/release/forebay"
fi
built="$FOREBAY_BIN"
make_scratch
start_postgres
"$PG_BIN/pgbench" -q -i -s 10 "$DIRECT_URL" >/dev/null 2>&1
printf '[insight]\nenabled = false\nrepeats = 0\n[slow]\nthreshold = "0"\n' >"$SCRATCH/off.toml"
printf '[insight]\nenabled = true\n' >"$SCRATCH/on.toml"
start_forebay --config "$SCRATCH/on.toml"
on="$FOREBAY_URL=$FOREBAY_PID"
start_forebay --config "$SCRATCH/off.toml"

# count NAME PROTOCOL: sets COUNTED, the instructions in user mode of one hit with these settings.
count() {
    local log="$SCRATCH/callgrind.$1.$2" valgrind="$SCRATCH/valgrind.$1.$2" sum
    printf '#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file="%s" "%s" "$@"\n' "$log" "$built" >"$valgrind"
    chmod +x "$valgrind"
    FOREBAY_BIN="$valgrind" start_forebay --config "$SCRATCH/$1.toml"
    local hits=("$PG_BIN/pgbench" -n -c 1 -M "$2" -f "$here/../pgbench/hundred.sql")
    "${hits[@]}" -t 300 "$FOREBAY_URL" >/dev/null 2>&1
    callgrind_control -z "$FOREBAY_PID" >/dev/null 2>&1
    "${hits[@]}" -t 3000 "$FOREBAY_URL" >/dev/null 2>&1
    callgrind_control -d "$FOREBAY_PID" >/dev/null 2>&1
    sum="$(sed -n 's/^totals: //p' "$log".* "$log" 2>/dev/null | head -1)"
    COUNTED="$((sum / 3000))"
}

# Unlike time, the same in every run.
instructions() {
    local protocol with
    printf '\nInstructions in user mode of one hit, by callgrind, a login per 3,000 included:\n\n'
    printf '| | on | off |\n|---|---:|---:|\n'
    for protocol in simple extended prepared; do
        count on "$protocol"
        with="$COUNTED"
        count off "$protocol"
        printf '| hits, %s | %s | %s |\n' "$protocol" "$with" "$COUNTED"
    done
}

python3 "$here/insight.py" "$PG_BIN/pgbench" "${SECONDS_EACH:-2}" "${ROUNDS:-15}" "${CLIENTS:-16}" \
    "$on" "$FOREBAY_URL=$FOREBAY_PID" "$here/../pgbench/hundred.sql" | tee "$SCRATCH/insight.md"
if command -v valgrind >/dev/null; then
    # No pipe: what is started is stopped by this shell.
    instructions >>"$SCRATCH/insight.md"
    tail -3 "$SCRATCH/insight.md"
else
    say "valgrind is not installed: instructions were not counted"
fi
if [ "${1:-}" = --write ]; then cp "$SCRATCH/insight.md" "$REPO/bench/INSIGHT.md"; fi
