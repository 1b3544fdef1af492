"""Prints what hits and writes cost in a group, and how far one Redis reaches, as tables.

usage: group.py PG_BIN HERE SCRATCH ROUNDS SECONDS CLIENTS WRITERS PGPOOL_VERSION
"""

import collections
import os
import statistics
import sys
import time

from measured import Bench, Target, idle, median, shown
from reach import print_reach

PROTOCOL = "prepared"

# What the others are compared with.
YARDSTICK = "alone"

RELAYED = "relayed"

# A run with fewer hits is made again, so often at most.
HITS_MIN, ATTEMPTS = 0.9, 8

# The logins of more of them take it longer than a run.
PGPOOL_CLIENTS_MAX = 16

# Accounts of a million that no other run asks for, and how many of them each asks for.
MISSES_FROM, MISSES = 200_000, 2_000

# Writes of one client that are counted; those of strict-local take a quarter of a second each.
WRITES, SLOW_WRITES = 2_000, 40

# By what is done, and by whom: what the design has the client wait for.
TRIPS = {
    "hit": {
        "alone, from Redis": "GETRANGE",
        "strict, 1": "nothing, as nobody else is there",
        "strict, 2": "HMGET",
        "strict-local, 2": "nothing",
    },
    "miss": {
        "alone, from Redis": "GETRANGE, if it may have been stored",
        "strict, 1": "GETRANGE",
        "strict, 2": "HMGET, GETRANGE",
        "strict-local, 2": "GETRANGE",
    },
    "write": {
        "strict, 1": "BEGIN",
        "strict, 2": "BEGIN",
        "strict-local, 2": "BEGIN, then until all have heard of it",
    },
}


def number(value, form):
    return "–" if value is None else format(value, form)


def rotated(targets, by):
    return targets[by % len(targets) :] + targets[: by % len(targets)]


def measure(bench, targets, counts, rounds, seconds, script_of, hits_min=0.0):
    """The runs of all rounds, by name and clients."""
    found = collections.defaultdict(list)
    for turn in range(rounds):
        for place, clients in enumerate(counts):
            for target in rotated(targets, turn + place):
                if not target.is_forebay() and clients > PGPOOL_CLIENTS_MAX:
                    continue
                run = whole(lambda: bench.run(target, clients, seconds, script_of(target)), target, hits_min)
                found[target.name, clients].append(run)
                print(f"  {target.name}, {clients}: {run['rate']:.0f}/s, {run['cpu']:.1f} µs", file=sys.stderr)
    return found


def whole(once, target, hits_min):
    """A run whose hits are enough; on a machine that has other work a group may be shut for a while."""
    for _ in range(ATTEMPTS):
        run = once()
        if run and (target.name == RELAYED or run["counted"]["hits"] >= hits_min * run["done"]):
            return run
        print(f"  {target.name}: {run and run['counted']['hits']} hits, again", file=sys.stderr)
    return sys.exit(f"{target.name} does not hit")


def against(runs, yardstick, key):
    """The median of the ratios, round by round."""
    return f"({statistics.median(run[key] / yard[key] for run, yard in zip(runs, yardstick)):.2f})"


def calls_each(runs, name):
    return statistics.median(run["calls"].get(name, 0) / run["done"] for run in runs)


def print_hits(targets, found, counts):
    print("| | clients | hits/s | CPU µs | | CPU µs of the second tier | p50 µs | p99 µs | HMGET | GETRANGE | hits |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for clients in counts:
        for target in targets:
            runs, yard = found[target.name, clients], found[YARDSTICK, clients]
            if not runs:
                continue
            cells = [number(median(runs, "rate"), ",.0f"), number(median(runs, "cpu"), ".1f"), against(runs, yard, "cpu")]
            cells.append(number(median(runs, "tier"), ".2f") if target.tier_pid else "")
            cells += [number(median(runs, "p50"), ".0f"), number(median(runs, "p99"), ".0f")]
            cells += [f"{calls_each(runs, name):.3f}" if target.tier_port else "" for name in ("hmget", "getrange")]
            hits = [run["counted"]["hits"] / run["done"] for run in runs]
            cells.append("" if target.name == RELAYED or not target.is_forebay() else f"{100 * statistics.median(hits):.0f} %")
            print(f"| {target.name} | {clients} | {' | '.join(cells)} |")


def print_writes(targets, found, counts, rest):
    print("| | clients | writes/s | p50 ms | | p99 ms | CPU µs | | CPU µs of Redis | scripts |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for clients in counts:
        for target in targets:
            runs, yard = found[target.name, clients], found[YARDSTICK, clients]
            scripts = statistics.median(asked_for(target, run["calls"], run["elapsed"], rest) / run["done"] for run in runs)
            p99 = median(runs, "p99")
            cells = [number(median(runs, "rate"), ",.0f"), f"{median(runs, 'p50') / 1000:.2f}", against(runs, yard, "p50")]
            cells += ["–" if p99 is None else f"{p99 / 1000:.2f}"]
            cells += [number(median(runs, "cpu"), ".1f"), against(runs, yard, "cpu")]
            cells += [number(median(runs, "tier"), ".1f"), f"{scripts:.1f}"] if target.tier_port else ["", ""]
            print(f"| {target.name} | {clients} | {' | '.join(cells)} |")


def asked_for(target, calls, elapsed, rest):
    """Scripts run for clients: all but those that members run anyway."""
    anyway = rest[target.name]["scripts"] * len(target.pids) * elapsed if target.name in rest else 0
    return max(0, calls.get("evalsha", 0) - anyway)


def print_trips(bench, targets, rest, here):
    """Commands of one client, where nothing can be asked together."""
    print("| | | hits | HMGET | GETRANGE | SET | scripts | waited for, by design |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    first = MISSES_FROM
    for kind, designed in TRIPS.items():
        for target in [target for target in targets if target.name in designed]:
            count = {"hit": MISSES, "miss": MISSES, "write": WRITES}[kind]
            if kind == "hit":
                script = hits_of(target, here)
            elif kind == "miss":
                script = ["-f", f"{here}/fill.sql", "-D", f"n={first}"]
                first += MISSES
            else:
                script = ["-f", f"{here}/write.sql"]
                count = SLOW_WRITES if target.name.startswith("strict-local") else WRITES
            known, hits, since = target.commands(), target.counters(bench.psql)["hits"], time.monotonic()
            bench.together(target, 1, ["-t", str(count), *script])
            elapsed = time.monotonic() - since
            calls = {name: calls - known.get(name, 0) for name, calls in target.commands().items()}
            share = (target.counters(bench.psql)["hits"] - hits) / count
            cells = [f"{calls.get(name, 0) / count:.2f}" for name in ("hmget", "getrange", "set")]
            cells.append(f"{asked_for(target, calls, elapsed, rest) / count:.2f}")
            print(f"| {kind} | {target.name} | {100 * share:.0f} % | {' | '.join(cells)} | {designed[target.name]} |")


def hits_of(target, here):
    return ["-f", f"{here}/far.sql" if target.name == "alone, from Redis" else f"{here}/../pgbench/hundred.sql"]


def warm(bench, targets, here, clients):
    for target in targets:
        if target.name == "alone, from Redis":
            for _ in range(2):  # What found the line to Redis full is stored the second time.
                bench.together(target, 16, ["-t", "3125", "-f", f"{here}/fill.sql", "-D", "n=0"])
        for _ in range(2):
            bench.together(target, clients, ["-T", "1", *hits_of(target, here)])
        if target.name.startswith("strict"):
            wait_until_open(bench, target)


def wait_until_open(bench, target):
    """As far as one Redis is the group's, it opens within two leases."""
    deadline = time.monotonic() + 30
    for admin in target.admins:
        while (group := shown(bench.psql, admin, "SHOW GROUP"))["state"] != "open" or int(group["members"]) != len(target.pids):
            if time.monotonic() > deadline:
                sys.exit(f"{target.name}: {group}")
            time.sleep(0.1)


def main():
    pg_bin, here, scratch, rounds, seconds, clients, writers, pgpool = sys.argv[1:]
    rounds, seconds = int(rounds), int(seconds)
    clients, writers = [int(one) for one in clients.split()], [int(one) for one in writers.split()]
    with open(f"{scratch}/targets") as lines:
        targets = [Target(line) for line in lines]
    busy, bench = os.getloadavg()[0], Bench(pg_bin, PROTOCOL)
    warm(bench, targets, here, max(clients))
    groups = [target for target in targets if target.name.startswith("strict")]
    rest = {target.name: idle(target, 5) for target in groups}
    hits = measure(bench, targets, clients, rounds, seconds, lambda target: hits_of(target, here), HITS_MIN)
    writing = [target for target in targets if target.name in (YARDSTICK, "strict, 1", "strict, 2", "strict, 4")]
    writing += [target for target in groups if target.name.startswith("strict-local")]
    write = ["-f", f"{here}/write.sql"]
    writes = measure(bench, writing, writers, rounds, seconds, lambda _target: write)

    print("# Groups\n")
    print("`bench/group/run.sh --write` makes this file: what a hit and a write cost alone, from Redis, and in groups of")
    print(f"one to four Forebays over one Redis and in front of one PostgreSQL. All of them and pgbench share {os.cpu_count()} cores,")
    print("so that throughput is that of the cores, whatever the number of Forebays. CPU is user and kernel time of all")
    print("processes of a kind per transaction, logins taken off; commands are those Redis counted, per transaction.")
    print(f"Clients are spread over the members. Medians of {rounds} rounds of {seconds} s in turn; in brackets the median of the")
    print(f"ratios to `{YARDSTICK}`, round by round. Other work on the machine as the run began: load average {busy:.1f}.\n")
    print("## Hits\n")
    print("A hundred distinct point reads, prepared, answered from memory; *from Redis*: 50,000 of them, and room for few in")
    print("memory (`cache.size` 1MB). *Relayed*: the cache off. One that is alone in its group asks nobody. HMGET below one:")
    print("whoever waits while a check is under way is part of the next. A run in which fewer than 90 % were hits, or logins took")
    print("all of the time, as they may on a machine with other work, is made again; Redis has longer to answer than by default.\n")
    print_hits(targets, hits, clients)
    if pgpool:
        print(f"\nPgpool-II is {pgpool} with `memory_cache_enabled`, as Debian builds it: a process a client, so that logins of 64")
        print("take it longer than a run, which is why there is no row of them. Its second tier is memcached. All were hits by")
        print("its own account (`SHOW POOL_CACHE`).")
    print("\n## Writes\n")
    print("`UPDATE` of one row by primary key, autocommit, without waiting for the disk. In strict-local a commit waits until")
    print("every member has heard of it: BEGIN tells them over a channel, HEAR tells K that they know, LAG asks who does not.\n")
    print_writes(writing, writes, writers, rest)
    print("\n## Commands, one client\n")
    print("Where nothing can be asked together, per transaction. Scripts are BEGIN and END, and HEAR and LAG while a commit")
    print("waits; each has an HMGET or two of its own, which are counted. SET and END nobody waits for.\n")
    print_trips(bench, targets, rest, here)
    print_reach(hits, writes, rest, clients, writers)


if __name__ == "__main__":
    main()
