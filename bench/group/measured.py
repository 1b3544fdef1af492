"""Runs pgbench against several Forebays of a group at once, and tells what each part has spent."""

import csv
import glob
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parent.parent))

from measure import cpu_us  # noqa: E402

# Of the latencies of reads one in so many is noted; noting all would measure the log.
SAMPLING = 10

# Below that, one of a hundred is chance.
SAMPLES_MIN = 200


class Target:
    """One thing that is compared, as run.sh has started it."""

    def __init__(self, line):
        name, urls, pids, admins, tier_pid, tier_url = line.rstrip("\n").split("\t")
        self.name = name
        self.urls, self.pids, self.admins = urls.split(), pids.split(), admins.split()
        self.tier_pid = tier_pid
        self.tier_port = int(tier_url.rsplit(":", 1)[1]) if tier_url else None

    def cpu(self):
        if self.is_forebay():
            return sum(cpu_us(pid) for pid in self.pids)
        return sum(cpu_us(pid) + ended_us(pid) + sum(map(cpu_us, children(pid))) for pid in self.pids)

    def is_forebay(self):
        return not self.name.startswith("Pgpool")

    def tier_cpu(self):
        return cpu_us(self.tier_pid) if self.tier_pid else 0

    def commands(self):
        """Calls by name. What scripts call is in it, too: an HMGET or two each."""
        if not self.tier_port:
            return {}
        with socket.create_connection(("127.0.0.1", self.tier_port)) as connection:
            connection.sendall(b"INFO commandstats\r\n")
            reply = connection.makefile("rb")
            text = reply.read(int(reply.readline()[1:])).decode()
        return {name: int(calls) for name, calls in re.findall(r"cmdstat_(\S+?):calls=(\d+)", text)}

    def counters(self, psql):
        """Sums over the members of what SHOW CACHE counts; of Pgpool-II the hits alone."""
        if not self.is_forebay():
            return {"hits": int(shown(psql, self.urls[0], "SHOW POOL_CACHE")["num_cache_hits"])}
        rows = [shown(psql, admin, "SHOW CACHE") for admin in self.admins]
        return {name: sum(int(row[name]) for row in rows) for name in ("hits", "hits_redis", "misses")}


def children(pid):
    """Processes that it has started: Pgpool-II has one for each client."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        found += pathlib.Path(path).read_text().split()
    return found


def ended_us(pid):
    """Of processes that it has started and that have ended; they are many enough for ticks."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[13]) + int(words[14])) * 1e6 / os.sysconf("SC_CLK_TCK")


def shown(psql, url, command):
    output = subprocess.run([psql, "--csv", url, "-c", command], stdout=subprocess.PIPE, text=True, check=True).stdout
    return next(csv.DictReader(output.splitlines()))


def shares(clients, count):
    """So many clients spread over so many members."""
    return [clients // count + (number < clients % count) for number in range(count)]


class Bench:
    def __init__(self, pg_bin, protocol):
        self.pgbench, self.psql, self.protocol = f"{pg_bin}/pgbench", f"{pg_bin}/psql", protocol

    def commands(self, target, clients, arguments):
        parts = [(url, part) for url, part in zip(target.urls, shares(clients, len(target.urls))) if part]
        threads = min(2, clients) if len(parts) == 1 else 1
        for url, part in parts:
            yield [self.pgbench, "-n", "-M", self.protocol, "-c", str(part), "-j", str(threads), *arguments, url]

    def together(self, target, clients, arguments):
        """What each pgbench printed. They run at the same time."""
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in self.commands(target, clients, arguments)
        ]
        printed = []
        for one in running:
            output, errors = one.communicate(timeout=300)
            if one.returncode != 0:
                sys.exit(f"{target.name}, {arguments}: pgbench: {errors.strip()}")
            printed.append(output)
        return printed

    def run(self, target, clients, seconds, script):
        """Everything that one run has spent, by transaction; None where logins took all of the time."""
        sampling = 1 if script[1].endswith("write.sql") else SAMPLING
        before = target.cpu(), target.tier_cpu()
        self.together(target, clients, ["-t", "1", *script])
        logins = target.cpu() - before[0], target.tier_cpu() - before[1]
        with tempfile.TemporaryDirectory() as logs:
            log = ["-l", f"--log-prefix={logs}/run", f"--sampling-rate={1 / sampling:g}"]
            counted, known = self.counted(target), target.commands()
            before, since = (target.cpu(), target.tier_cpu()), time.monotonic()
            printed = self.together(target, clients, ["-T", str(seconds), *log, *script])
            after, elapsed = (target.cpu(), target.tier_cpu()), time.monotonic() - since
            commands = target.commands()
            latencies = read_latencies(logs)
        parts = [int(re.search(r"actually processed: (\d+)", text).group(1)) for text in printed]
        if 0 in parts:
            return None
        done = sum(parts)
        now = self.counted(target)
        return {
            "done": done,
            "elapsed": elapsed,
            "rate": sum(float(rate) for text in printed for rate in re.findall(r"^tps = ([\d.]+)", text, re.M)),
            "cpu": (after[0] - before[0] - logins[0]) / done,
            # Where it is asked nothing, the logins of two runs differ by more.
            "tier": max(0.0, after[1] - before[1] - logins[1]) / done,
            "p50": quantile(latencies, 50),
            "p99": quantile(latencies, 99) if len(latencies) >= SAMPLES_MIN else None,
            "calls": {name: calls - known.get(name, 0) for name, calls in commands.items()},
            "counted": {name: count - counted[name] for name, count in now.items()},
        }

    def counted(self, target):
        return target.counters(self.psql)


def read_latencies(logs):
    """The third word of each line, in microseconds."""
    found = []
    for name in os.listdir(logs):
        with open(os.path.join(logs, name)) as log:
            found += [int(line.split()[2]) for line in log]
    return sorted(found)


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else None


def idle(target, seconds):
    """What a member spends in a second in which nobody asks anything."""
    before = target.cpu(), target.tier_cpu(), target.commands()
    time.sleep(seconds)
    members = len(target.pids) * seconds
    calls = target.commands()
    return {
        "cpu": (target.cpu() - before[0]) / members,
        "tier": (target.tier_cpu() - before[1]) / members,
        "scripts": (calls.get("evalsha", 0) - before[2].get("evalsha", 0)) / members,
    }


def median(runs, key):
    """Of what was measured in every round; None if it was not."""
    values = [run[key] for run in runs if run[key] is not None]
    return statistics.median(values) if values else None
