#!/usr/bin/env bash
# What a miss costs more than relaying: reads that are not repeated, with the cache off, with it on,
# and with it on but too small for any answer, so that every fill is dropped.
# usage: bench/miss/run.sh [--write]     --write also stores the tables in bench/MISS.md
#
#   ROUNDS=11 SECONDS_EACH=2 CLIENTS="1 16"   how much is measured
#   FOREBAY_BIN=path                          default: target/release/forebay, built first
#
# The three run in turn, each round in another order; a round is compared with itself.
# shellcheck disable=SC2119 # servers are started without further settings
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
built="${FOREBAY_BIN:-}"
# shellcheck source=tests/lib.sh
. "$here/../../tests/lib.sh"

require postgres python
case "${1:-}" in
--write | "") ;;
*) fail "usage: bench/miss/run.sh [--write]" ;;
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
"$PG_BIN/psql" -q "$DIRECT_URL" -c 'VACUUM ANALYZE'
printf '[cache]\nmode = "off"\n' >"$SCRATCH/relayed.toml"
printf '[cache]\nmode = "on"\n' >"$SCRATCH/kept.toml"
printf '[cache]\nmax_entry_size = "1kB"\n' >"$SCRATCH/dropped.toml"
targets=()
for kind in relayed kept dropped; do
    start_forebay --config "$SCRATCH/$kind.toml"
    targets+=("$kind=$FOREBAY_URL=$FOREBAY_PID=$ADMIN_URL")
done

# count KIND PROTOCOL: sets COUNTED, the instructions in user mode of one read with these settings.
count() {
    local log="$SCRATCH/callgrind.$1.$2" valgrind="$SCRATCH/valgrind.$1.$2" sum
    printf '#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file="%s" "%s" "$@"\n' "$log" "$built" >"$valgrind"
    chmod +x "$valgrind"
    FOREBAY_BIN="$valgrind" start_forebay --config "$SCRATCH/$1.toml"
    local reads=("$PG_BIN/pgbench" -n -c 1 -M "$2" -f "$here/read.sql")
    "${reads[@]}" -t 300 "$FOREBAY_URL" >/dev/null 2>&1
    callgrind_control -z "$FOREBAY_PID" >/dev/null 2>&1
    "${reads[@]}" -t 3000 "$FOREBAY_URL" >/dev/null 2>&1
    callgrind_control -d "$FOREBAY_PID" >/dev/null 2>&1
    sum="$(sed -n 's/^totals: //p' "$log".* "$log" 2>/dev/null | head -1)"
    stop_pid "$FOREBAY_PID"
    COUNTED="$((sum / 3000))"
}

# Unlike time, the same in every run.
instructions() {
    local protocol kind row
    printf '\nInstructions in user mode of one read, by callgrind, a login per 3,000 included:\n\n'
    printf '| | relayed | kept | dropped |\n|---|---:|---:|---:|\n'
    for protocol in simple extended prepared; do
        row="| $protocol"
        for kind in relayed kept dropped; do
            count "$kind" "$protocol"
            row+=" | $COUNTED"
        done
        printf '%s |\n' "$row"
    done
}

read -ra clients <<<"${CLIENTS:-1 16}"
python3 "$here/miss.py" "$PG_BIN" "${SECONDS_EACH:-2}" "${ROUNDS:-11}" "$here/read.sql" "${targets[@]}" -- \
    "${clients[@]}" | tee "$SCRATCH/miss.md"
if command -v valgrind >/dev/null; then
    # No pipe: what is started is stopped by this shell.
    instructions >>"$SCRATCH/miss.md"
    tail -6 "$SCRATCH/miss.md"
else
    say "valgrind is not installed: instructions were not counted"
fi
if [ "${1:-}" = --write ]; then cp "$SCRATCH/miss.md" "$REPO/bench/MISS.md"; fi
