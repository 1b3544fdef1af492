"""Prints what statements and entries take of memory, as tables.

usage: memory.py head
       memory.py many|shared NAME URL PID STATEMENTS CONNECTIONS
       memory.py entries PG_BIN URL ADMIN_URL PID ENTRIES MISS_SQL
"""

import csv
import pathlib
import subprocess
import sys
from urllib.parse import urlparse

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from soak import Client, frame, rss  # noqa: E402

TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1 AND bid <> {:05d}"
EACH = 100


def prepare(client, statements):
    """Parse and Sync, a hundred at once."""
    for first in range(0, len(statements), 100):
        some = statements[first : first + 100]
        client.send(b"".join(
            frame(b"P", f"s{number}\0{TEXT.format(number)}\0".encode() + b"\0\0") + frame(b"S", b"") for number in some))
        for _ in some:
            client.until_ready()
            assert not client.error, client.error


def connect(url, count):
    where = urlparse(url)
    address, database = (where.hostname, where.port), where.path[1:]
    return [Client(address, where.username, database) for _ in range(count)]


def many(url, pid, count, _connections):
    """Bytes for each of so many statements that nobody else has."""
    first, client = connect(url, 2)
    prepare(first, range(10))
    before = rss(pid)
    prepare(client, range(20000, 20000 + count))
    return 1024 * (rss(pid) - before) / count


def shared(url, pid, _count, connections):
    """Bytes for each statement of each client where all have the same."""
    clients = connect(url, connections)
    prepare(clients[0], range(EACH))
    before = rss(pid)
    for client in clients[1:]:
        prepare(client, range(EACH))
    return 1024 * (rss(pid) - before) / EACH / (connections - 1)


def cache(pg_bin, admin):
    text = subprocess.run([f"{pg_bin}/psql", "--csv", admin, "-c", "SHOW CACHE"], capture_output=True, text=True, check=True).stdout
    rows = list(csv.DictReader(text.splitlines()))
    return [sum(int(row[name] or 0) for row in rows) for name in ("entries", "bytes")]


def fill(pg_bin, url, miss, base, count):
    command = [f"{pg_bin}/pgbench", "-n", "-M", "prepared", "-c", "8", "-j", "2", "-t", str(count // 8), "-D", "n=0",
               "-D", f"base={base}", "-D", f"each={count // 8}", "-f", miss, url]
    subprocess.run(command, capture_output=True, check=True)


def entries(pg_bin, url, admin, pid, count, miss):
    """Bytes for each entry, and what the cache counts for it."""
    fill(pg_bin, url, miss, 0, 8000)
    memory, (number, counted) = rss(pid), cache(pg_bin, admin)
    fill(pg_bin, url, miss, 8000, count)
    more, (then, counted_then) = rss(pid), cache(pg_bin, admin)
    kept = then - number
    assert kept > count * 0.99, f"{kept} of {count} kept"
    return 1024 * (more - memory) / kept, (counted_then - counted) / kept


def main():
    part, *arguments = sys.argv[1:]
    if part == "head":
        print("# Memory\n")
        print("`bench/memory/run.sh --write` makes this file: how much more memory is resident, for each.\n")
        print("| | | bytes |")
        print("|---|---|---:|")
    elif part in ("many", "shared"):
        name, url, pid, count, connections = arguments
        each = {"many": many, "shared": shared}[part](url, pid, int(count), int(connections))
        what = {"many": f"prepared statement, {int(count):,} different ones of one client",
                "shared": f"prepared statement of a client, the same {EACH} of {int(connections):,}"}[part]
        print(f"| {name} | {what} | {each:,.0f} |", flush=True)
    else:
        pg_bin, url, admin, pid, count, miss = arguments
        real, counted = entries(pg_bin, url, admin, pid, int(count), miss)
        print(f"| Forebay | cache entry of one row, {int(count):,} of them | {real:,.0f} |")
        print(f"| | what `cache.size` counts for it | {counted:,.0f} |")


main()
