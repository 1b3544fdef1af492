"""Prints what reads and writes in one mix cost, as a table.

usage: mix.py PG_BIN CLIENTS ROWS SECONDS ROUNDS POSTMASTER_PID ADMIN_URL NAME=URL=PID… -- WRITES_PERCENT…

A target without a PID is PostgreSQL itself; the one named Forebay is asked for its hits.
"""

import csv
import os
import pathlib
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
WARM_UP = 2
TICKS = os.sysconf("SC_CLK_TCK")


def stat(pid):
    """The fields of /proc/PID/stat behind the name, which may hold blanks; none if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(pid):
    """User and kernel time of a process."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def children(pid):
    """Ticks of each living child of a process."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        fields = stat(entry.name) if entry.name.isdigit() else None
        if fields and fields[1] == str(pid):
            found[entry.name] = int(fields[11]) + int(fields[12])
    return found


def tree_cpu_seconds(pid):
    """The same of PostgreSQL: its first process, those it waited for, and those that live."""
    while True:
        living, fields = children(pid), stat(pid)
        # One that ended between the two looks would be counted twice or not at all.
        if children(pid).keys() == living.keys():
            return (sum(int(field) for field in fields[11:15]) + sum(living.values())) / TICKS


class Bench:
    def __init__(self, pg_bin, clients, rows, seconds, postmaster, admin):
        self.pg_bin, self.clients, self.rows, self.seconds = pg_bin, clients, rows, seconds
        self.postmaster, self.admin = postmaster, admin

    def pgbench(self, url, writes, seconds):
        """Transactions made, and how many a second."""
        # Weights: a fifth of the reads are pages.
        reads = (100 - writes) * 10
        scripts = {"read.sql": reads * 8 // 10, "page.sql": reads * 2 // 10, "write.sql": writes * 10}
        command = [f"{self.pg_bin}/pgbench", "-n", "-c", self.clients, "-j", "2", "-T", str(seconds)]
        command += ["-D", f"rows={self.rows}"]
        for name, weight in scripts.items():
            command += ["-f", f"{HERE / name}@{weight}"]
        output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        done = re.search(r"^number of transactions actually processed: (\d+)", output, re.M)
        tps = re.search(r"^tps = ([0-9.]+)", output, re.M)
        return int(done[1]), float(tps[1])

    def cache(self):
        """Hits and misses so far."""
        command = [f"{self.pg_bin}/psql", "--csv", self.admin, "-c", "SHOW CACHE"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = next(csv.DictReader(output.splitlines()))
        return int(row["hits"]), int(row["misses"])

    def measure(self, name, url, pid, writes):
        self.pgbench(url, writes, WARM_UP)
        hits, misses = self.cache()
        postgres, proxy = tree_cpu_seconds(self.postmaster), cpu_seconds(pid) if pid else 0
        done, tps = self.pgbench(url, writes, self.seconds)
        run = {"tps": tps, "postgres": (tree_cpu_seconds(self.postmaster) - postgres) / done * 1e6}
        if pid:
            run["proxy"] = (cpu_seconds(pid) - proxy) / done * 1e6
        if name == "Forebay":
            hits, misses = [now - before for now, before in zip(self.cache(), (hits, misses))]
            run["hits"] = 100 * hits / max(hits + misses, 1)
        return run


def row(name, writes, runs, yardstick):
    """The medians of one target; what PostgreSQL is saved is told against the yardstick."""
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    hits = f"{median['hits']:.0f} %" if "hits" in median else "–"
    proxy = f"{median['proxy']:.1f}" if "proxy" in median else "–"
    saved = f"{100 - 100 * median['postgres'] / yardstick:.0f} %"
    return (
        f"| {writes} % | {name} | {hits} | {median['tps']:,.0f} | {median['postgres']:.1f} "
        f"| {saved} | {proxy} | {median['postgres'] + median.get('proxy', 0):.1f} |"
    )


def main():
    divider = sys.argv.index("--")
    pg_bin, clients, rows, seconds, rounds, postmaster, admin, *targets = sys.argv[1:divider]
    bench = Bench(pg_bin, clients, rows, int(seconds), postmaster, admin)
    targets = [target.rsplit("=", 2) for target in targets]
    print("# Reads and writes mixed\n")
    print(f"`bench/mix/run.sh --write` makes this file: {clients} clients, simple protocol; median of {rounds} rounds of")
    print(f"{seconds} s in rotating order, each after {WARM_UP} s of the same. Reads fall on twenty tables of {int(rows):,} rows by")
    print("Zipf's law (1.1), one in five is a page of twenty rows. A write changes one row of any table, all alike, and")
    print("what that table answered is forgotten. CPU: µs a transaction, user and kernel time, logins included; *saved*:")
    print("against PostgreSQL alone; hits: of what the cache was asked. pgbench shares the cores.\n")
    print("| writes | | hits | transactions/s | CPU of PostgreSQL | saved | CPU of proxy | both |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for writes in sys.argv[divider + 1 :]:
        runs = {name: [] for name, _, _ in targets}
        for turn in range(int(rounds)):
            by = turn % len(targets)
            for name, url, pid in targets[by:] + targets[:by]:
                runs[name].append(bench.measure(name, url, pid, int(writes)))
        alone = statistics.median(run["postgres"] for run in runs["PostgreSQL"])
        for name, found in runs.items():
            print(row(name, writes, found, alone), flush=True)


if __name__ == "__main__":
    main()
