"""Keeps a Forebay busy with everything that goes wrong, and counts afterwards: nobody stuck, no
server unaccounted for, no memory or descriptor lost.

usage: soak.py SECONDS HOST PORT ADMIN_PORT USER DATABASE PID PG_CTL_COMMAND PSQL_COMMAND

Forebay trusts USER. PG_CTL_COMMAND restarts PostgreSQL, PSQL_COMMAND asks it directly; both are
split at blanks. Everything random comes from SOAK_SEED.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter

# A reply that takes longer means somebody is stuck: far more than a restart of PostgreSQL takes.
DEADLINE = 30
WORKERS = 12
TABLE = "soak_rows"


class Gone(Exception):
    """The connection ended, which is expected of connections here."""


class Client:
    """One connection that is trusted; just enough of protocol 3."""

    def __init__(self, address, user, database):
        try:
            self.socket = socket.create_connection(address, timeout=DEADLINE)
        except ConnectionError as error:
            raise Gone(str(error)) from error
        self.input = b""
        self.key = None
        body = struct.pack("!i", 3 << 16)
        for text in ("user", user, "database", database, ""):
            body += text.encode() + b"\0"
        self.send(struct.pack("!i", len(body) + 4) + body)
        self.error = None
        self.until_ready()

    def send(self, message):
        try:
            self.socket.sendall(message)
        except ConnectionError as error:
            raise Gone(str(error)) from error

    def message(self):
        while True:
            if len(self.input) >= 5:
                length = struct.unpack("!i", self.input[1:5])[0]
                if len(self.input) > length:
                    tag, body = self.input[:1], self.input[5 : length + 1]
                    self.input = self.input[length + 1 :]
                    return tag, body
            try:
                more = self.socket.recv(65536)
            except ConnectionError as error:
                raise Gone(str(error)) from error
            if not more:
                raise Gone(self.error or "closed")
            self.input += more

    def until_ready(self, stop=b"Z"):
        """The rows up to ReadyForQuery; `error` holds the SQLSTATE of the last error."""
        rows, self.error = [], None
        while True:
            tag, body = self.message()
            if tag == b"K":
                self.key = body
            elif tag == b"E":
                fields = dict((field[:1], field[1:]) for field in body.split(b"\0") if field)
                self.error = fields.get(b"C", b"").decode()
            elif tag == b"D":
                rows.append(body)
            if tag == stop or tag == b"Z":
                return rows

    def query(self, sql):
        self.send(frame(b"Q", sql.encode() + b"\0"))
        return self.until_ready()

    def values(self, sql):
        """Rows as lists of texts."""
        result = []
        for row in self.query(sql):
            count, at, values = struct.unpack("!h", row[:2])[0], 2, []
            for _ in range(count):
                length = struct.unpack("!i", row[at : at + 4])[0]
                at += 4
                values.append(None if length < 0 else row[at : at + length].decode())
                at += max(length, 0)
            result.append(values)
        return result

    def close(self, politely=True):
        if politely:
            with contextlib.suppress(Gone):
                self.send(frame(b"X", b""))
        self.socket.close()


def frame(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


class Soak:
    def __init__(self, arguments):
        seconds, host, port, admin_port, self.user, self.database, pid, pg_ctl, psql = arguments
        self.address, self.admin_address = (host, int(port)), (host, int(admin_port))
        self.until = time.monotonic() + float(seconds)
        self.pid, self.pg_ctl, self.psql = int(pid), pg_ctl.split(), psql.split()
        self.seed = int(os.environ.get("SOAK_SEED", time.time()))
        self.done, self.failures = Counter(), []
        self.restarting = threading.Event()

    def running(self):
        return time.monotonic() < self.until and not self.failures

    def client(self):
        return Client(self.address, self.user, self.database)

    def direct(self, sql):
        return subprocess.run(self.psql + ["-c", sql], capture_output=True, text=True, check=False)

    def console(self, sql):
        client = Client(self.admin_address, self.user, "pgbouncer")
        try:
            return client.values(sql)
        finally:
            client.close()

    # --- what applications do ---

    def short(self, dice):
        client = self.client()
        for _ in range(dice.randrange(1, 5)):
            client.query(f"SELECT count(*) FROM {TABLE} WHERE id < {dice.randrange(100)}")
        client.close()

    def write(self, dice):
        client = self.client()
        client.query("BEGIN")
        client.query(f"UPDATE {TABLE} SET v = v + 1 WHERE id = {dice.randrange(100)}")
        client.query(dice.choice(["COMMIT", "ROLLBACK"]))
        client.close()

    def prepared(self, dice):
        client = self.client()
        name = b"p%d" % dice.randrange(3)
        sql = f"SELECT v FROM {TABLE} WHERE id = $1".encode()
        client.send(frame(b"P", name + b"\0" + sql + b"\0" + struct.pack("!hi", 1, 23)) + frame(b"S", b""))
        client.until_ready()
        for _ in range(dice.randrange(1, 5)):
            value = str(dice.randrange(100)).encode()
            bind = b"\0" + name + b"\0" + struct.pack("!hhi", 0, 1, len(value)) + value + struct.pack("!h", 0)
            client.send(frame(b"B", bind) + frame(b"E", b"\0" + bytes(4)) + frame(b"S", b""))
            client.until_ready()
        client.close()

    def leave_in_answer(self, _dice):
        client = self.client()
        client.send(frame(b"Q", b"SELECT repeat('x', 1000) FROM generate_series(1, 3000)\0"))
        client.message()
        client.close(politely=False)

    def leave_in_transaction(self, dice):
        client = self.client()
        client.query("BEGIN")
        client.query(f"UPDATE {TABLE} SET v = v + 1 WHERE id = {dice.randrange(100)}")
        client.close(politely=False)

    def leave_in_message(self, dice):
        client = self.client()
        message = frame(b"Q", b"SELECT 1\0")
        client.send(message[: dice.randrange(1, len(message))])
        client.close(politely=False)

    def leave_in_copy(self, _dice):
        client = self.client()
        client.send(frame(b"Q", f"COPY {TABLE} (id, v) FROM STDIN\0".encode()))
        client.until_ready(stop=b"G")
        if client.error is None:
            client.send(frame(b"d", b"1000\t"))
        client.close(politely=False)

    def cancel(self, _dice):
        client = self.client()
        if client.key is None:
            raise Gone("no key")
        client.send(frame(b"Q", b"SELECT pg_sleep(3600)\0"))
        # Until the server is at work; a cancel that comes before it is for nobody, as in PostgreSQL.
        while self.running() and client_is_idle(self, client):
            pass
        for _ in range(200):
            with socket.create_connection(self.address, timeout=DEADLINE) as side:
                side.sendall(struct.pack("!ii", 8 + len(client.key), 80877102) + client.key)
                side.recv(1)
            client.socket.settimeout(0.1)
            try:
                client.until_ready()
                break
            except TimeoutError:
                continue
        else:
            raise TimeoutError("a statement that was cancelled goes on")
        client.socket.settimeout(DEADLINE)
        if client.error not in ("57014", "57P01", "08006", "08P01"):
            raise AssertionError(f"a cancelled statement ended with {client.error}")
        client.query("SELECT 1")
        client.close()

    def refused(self, _dice):
        with contextlib.suppress(Gone):
            Client(self.address, "nobody_of_that_name", self.database).close()
        raise Gone("as it should be")

    # --- what goes wrong around them ---

    def kill(self):
        self.direct(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1"
        )

    def restart(self):
        self.restarting.set()
        ended = subprocess.run(self.pg_ctl, capture_output=True, text=True, check=False)
        self.restarting.clear()
        if ended.returncode != 0:
            self.failures.append(f"PostgreSQL did not restart: {ended.stderr}")

    def chaos(self):
        dice, turn = random.Random(self.seed), 0
        pause = threading.Event()
        while self.running():
            turn += 1
            if turn % 20 == 0:
                self.restart()
                self.done["restart"] += 1
            elif turn % 7 == 0:
                with contextlib.suppress(Gone):
                    self.console("RELOAD")
                    self.done["RELOAD"] += 1
            elif turn % 5 == 0:
                os.kill(self.pid, signal.SIGHUP)
                self.done["SIGHUP"] += 1
            else:
                self.kill()
                self.done["kill"] += 1
            pause.wait(dice.random())

    def worker(self, number):
        dice = random.Random(self.seed * 1000 + number)
        ways = [
            self.short, self.short, self.write, self.prepared, self.leave_in_answer, self.cancel,
            self.leave_in_transaction, self.leave_in_message, self.leave_in_copy, self.refused,
        ]
        while self.running():
            way = dice.choice(ways)
            try:
                way(dice)
                self.done[way.__name__] += 1
            except Gone:
                self.done[f"{way.__name__}, ended early"] += 1
            except (TimeoutError, AssertionError) as error:
                self.failures.append(f"{way.__name__}: {error!r}")

    # --- afterwards ---

    def accounted(self):
        """What is not as it should be when everybody has left; empty if all is."""
        try:
            pools = [row for row in self.console("SHOW POOLS") if row[0] != "pgbouncer"]
            servers = self.console("SHOW SERVERS")
        except Gone as error:
            return [f"the console did not answer: {error}"]
        wrong = []
        for row in pools:
            # cl_active, cl_waiting, both cancels; sv_active, canceled, being canceled; tested, login
            if any(int(row[column]) for column in (2, 3, 4, 5, 6, 7, 8, 11, 12)):
                wrong.append(f"a pool is not at rest: {row}")
        known = {row[16] for row in servers if row[16] not in (None, "0", "")}
        answer = self.direct(
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        alive = set(answer.stdout.split())
        if known - alive:
            wrong.append(f"servers that PostgreSQL does not know: {known - alive}")
        # One connection for questions of its own.
        if len(alive - known) > 1:
            wrong.append(f"connections that no pool knows: {alive - known}")
        return wrong

    def run(self):
        print(f"seed {self.seed}, {WORKERS} workers")
        self.direct(
            f"DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id int, v int); "
            f"INSERT INTO {TABLE} SELECT x, 0 FROM generate_series(1, 100) x"
        )
        threads = [threading.Thread(target=self.worker, args=(number,)) for number in range(WORKERS)]
        threads.append(threading.Thread(target=self.chaos))
        for thread in threads:
            thread.start()
        # Memory is compared once pools, caches and allocator have found their size.
        warm = time.monotonic() + (self.until - time.monotonic()) / 3
        pause = threading.Event()
        while time.monotonic() < warm and self.running():
            pause.wait(0.1)
        memory = rss(self.pid)
        for thread in threads:
            thread.join(max(0, self.until - time.monotonic()) + DEADLINE * 4)
            if thread.is_alive():
                self.failures.append("a client is stuck")
                break
        patience, wrong = time.monotonic() + DEADLINE, ["not looked at"]
        while wrong and time.monotonic() < patience:
            wrong = self.accounted()
        self.failures += wrong
        self.report(memory)

    def report(self, memory):
        for name, count in sorted(self.done.items()):
            print(f"  {name:<36} {count:>7}")
        now, descriptors = rss(self.pid), len(os.listdir(f"/proc/{self.pid}/fd"))
        print(f"resident: {memory} kB after a third, {now} kB at the end; {descriptors} descriptors")
        if now > memory * 1.3 + 16 * 1024:
            self.failures.append("memory grows")
        if descriptors > 100:
            self.failures.append("descriptors are left")
        for failure in self.failures[:20]:
            print(f"FAILED {failure}")
        if not self.failures:
            print("every client and server accounted for")
        sys.exit(1 if self.failures else 0)


def client_is_idle(soak, client):
    """Whether PostgreSQL has not begun with what this client asked for."""
    try:
        client.socket.settimeout(0.05)
        client.socket.recv(1, socket.MSG_PEEK)
        return False
    except TimeoutError:
        sleeping = soak.direct("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
        return not sleeping.stdout.strip() and not sleeping.stderr
    except ConnectionError as error:
        raise Gone(str(error)) from error
    finally:
        client.socket.settimeout(DEADLINE)


def rss(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


if __name__ == "__main__":
    Soak(sys.argv[1:]).run()
