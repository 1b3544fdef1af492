"""Prints what idle clients cost, as a table.

usage: idle.py PGBENCH SECONDS ROUNDS USER DATABASE NAME=URL=PID… -- IDLE…
"""

import pathlib
import re
import statistics
import subprocess
import sys
from urllib.parse import urlparse

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from soak import Client, rss  # noqa: E402


def busy(pgbench, seconds, url):
    """Transactions a second of sixty-four clients."""
    command = [pgbench, "-n", "-S", "-c", "64", "-j", "2", "-T", str(seconds), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"^tps = ([0-9.]+)", output, re.M).group(1))


def main():
    divider = sys.argv.index("--")
    pgbench, seconds, rounds, user, database, *targets = sys.argv[1:divider]
    counts = [int(count) for count in sys.argv[divider + 1 :]]
    print("# Idle clients\n")
    print(f"`bench/idle/run.sh --write` makes this file: sixty-four busy clients of `pgbench -S`, alone and")
    print(f"beside idle ones, in turn; median of {rounds} rounds of {seconds} s, the cache off.\n")
    print("| | idle clients | kB each | busy alone, tps | beside them, tps | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for target in targets:
        name, url, pid = target.rsplit("=", 2)
        where = urlparse(url)
        for count in counts:
            busy(pgbench, 1, url)
            alone, beside, kilobytes = [], [], 0.0
            for _ in range(int(rounds)):
                alone.append(busy(pgbench, seconds, url))
                before = rss(pid)
                clients = [Client((where.hostname, where.port), user, database) for _ in range(count)]
                kilobytes = max(kilobytes, (rss(pid) - before) / count)
                beside.append(busy(pgbench, seconds, url))
                for client in clients:
                    client.close()
            one, other = statistics.median(alone), statistics.median(beside)
            print(f"| {name} | {count:,} | {kilobytes:.1f} | {one:,.0f} | {other:,.0f} | {other / one:.2f} |", flush=True)


main()
