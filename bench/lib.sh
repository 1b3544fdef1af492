# shellcheck shell=bash
# Helpers for the scripts in bench/ that count what a program does, instead of timing it. Sourced
# behind tests/lib.sh, never run.

# under_valgrind PROGRAM OPTION …: sets WRAPPED, which runs PROGRAM under valgrind with these options,
# and VALGRIND_DIRECTORY, where its output is (`%q{OUT}` in an option). Reading the names in the program
# would take seconds, and totals need none.
under_valgrind() {
    local program="$1"
    shift
    VALGRIND_DIRECTORY="$(mktemp -d "$SCRATCH/valgrind.XXXXXX")"
    # PgBouncer does not run as root, and has to write there.
    chmod 777 "$VALGRIND_DIRECTORY"
    WRAPPED="$VALGRIND_DIRECTORY/run"
    strip -o "$VALGRIND_DIRECTORY/program" "$program"
    {
        # shellcheck disable=SC2016 # it is the script that looks at its argument
        printf '#!/bin/sh\n[ "$1" != --version ] || exec "%s" --version\n' "$program"
        printf 'OUT="%s" exec valgrind %s "%s" "$@"\n' "$VALGRIND_DIRECTORY" "$*" "$VALGRIND_DIRECTORY/program"
    } >"$WRAPPED"
    chmod 755 "$WRAPPED"
}

# As under_valgrind, for `instructions`.
under_callgrind() { under_valgrind "$1" --tool=callgrind --instr-atstart=no '--callgrind-out-file=%q{OUT}/counted'; }

# instructions PID DIRECTORY command …: sets COUNTED, what the process executes in user mode while the
# command runs.
instructions() {
    local pid="$1" directory="$2"
    shift 2
    rm -f "$directory"/counted*
    callgrind "$pid" -i on
    callgrind "$pid" -z
    "$@" >/dev/null 2>&1
    callgrind "$pid" -d
    callgrind "$pid" -i off
    COUNTED="$(sed -n 's/^totals: //p' "$directory"/counted* | head -1)"
}

# callgrind PID OPTION …: tells it something, as the user that it runs as; from another it hears nothing.
callgrind() {
    local as=() pid="$1"
    shift
    if is_root && [ "$(stat -c %u "/proc/$pid")" != 0 ]; then as=(unprivileged); fi
    "${as[@]}" timeout 20 callgrind_control "$@" "$pid" >/dev/null 2>&1 || fail "callgrind_control $* $pid"
}

# instructions_each PID DIRECTORY COUNT command …: sets COUNTED, the instructions of one transaction of
# pgbench. A run of COUNT is taken off one of twice as many, so that logins fall out.
instructions_each() {
    local pid="$1" directory="$2" count="$3" once
    shift 3
    instructions "$pid" "$directory" "$@" -t "$count"
    once="$COUNTED"
    instructions "$pid" "$directory" "$@" -t "$((2 * count))"
    COUNTED="$(((COUNTED - once) / count))"
}
