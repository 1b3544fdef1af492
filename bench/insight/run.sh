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
# shellcheck source=bench/lib.sh
. "$here/../lib.sh"

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
    local hits=("$PG_BIN/pgbench" -n -c 1 -M "$2" -f "$here/../pgbench/hundred.sql")
    under_callgrind "$built"
    FOREBAY_BIN="$WRAPPED" start_forebay --config "$SCRATCH/$1.toml"
    "${hits[@]}" -t 800 "$FOREBAY_URL" >/dev/null 2>&1
    instructions_each "$FOREBAY_PID" "$VALGRIND_DIRECTORY" 1000 "${hits[@]}" "$FOREBAY_URL"
}

# Unlike time, the same in every run.
instructions() {
    local protocol with
    printf '\nInstructions in user mode of one hit, by callgrind:\n\n'
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
