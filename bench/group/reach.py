"""How far one Redis reaches, from what was measured."""

import statistics

from measured import median

# Of a core of Redis, so that nothing queues.
LOAD = 0.7

# Round trips to Redis that the arithmetic is made for, in microseconds.
ROUND_TRIPS = (100, 250, 500)


def check_us(runs):
    """CPU of Redis for one check."""
    return statistics.median(run["tier"] * run["done"] / run["calls"]["hmget"] for run in runs)


def hits_each(runs):
    """Hits that one check is for."""
    return statistics.median(run["done"] / run["calls"]["hmget"] for run in runs)


def print_reach(hits, writes, rest, clients, writers):
    least, most = min(clients), max(clients)
    columns = [
        (f"{name.split(', ')[1]} members, {count} client{'s' if count > 1 else ''}", hits[name, count])
        for name, count in (("strict, 2", least), ("strict, 2", most), ("strict, 4", most))
    ]
    checks = [1e6 * LOAD / check_us(runs) for _, runs in columns]
    carried = [check * hits_each(runs) for check, (_, runs) in zip(checks, columns)]
    own = [1e6 / median(runs, "cpu") for _, runs in columns]
    rows = [
        ("CPU µs of Redis for a check", [f"{check_us(runs):.1f}" for _, runs in columns]),
        ("hits that a check is for", [f"{hits_each(runs):.1f}" for _, runs in columns]),
        ("checks/s", [f"{check:,.0f}" for check in checks]),
        ("hits/s", [f"{hit:,.0f}" for hit in carried]),
        ("hits/s of a Forebay on a core of its own", [f"{hit:,.0f}" for hit in own]),
        ("such cores until Redis is that busy", [f"{hit / one:.1f}" for hit, one in zip(carried, own)]),
    ]
    print("\n## How far one Redis reaches\n")
    print(f"Computed from the tables above: one Redis with a core of its own, of which checks take {100 * LOAD:.0f} %. The table has")
    print("what was measured over loopback, where a check is a wake-up and two system calls of Redis, which is most of what")
    print("it costs.\n")
    print("| strict, | " + " | ".join(name for name, _ in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name, cells in rows:
        print(f"| {name} | {' | '.join(cells)} |")
    print_trips_bound(checks, columns)
    print_first(carried, own)
    print_writes_reach(hits, writes, rest, most, max(writers))
    print_design(hits, writes, clients, writers)


def print_trips_bound(checks, columns):
    """A member has one check under way at a time."""
    print("\nA member has one check under way at a time, so it never makes more than one a round trip, at any number of")
    print("hits. Members, each making all the checks it can, until Redis is that busy:\n")
    print("| round trip | checks/s of a member | members |\n|---:|---:|---:|")
    for trip in ROUND_TRIPS:
        print(f"| {trip} µs | {1e6 / trip:,.0f} | {checks[-1] * trip / 1e6:.0f} |")


def print_first(carried, own):
    cores = carried[-1] / own[-1]
    print(f"\nOne Redis carries the checks of {cores:.1f} cores of Forebays that do nothing but hit, if nothing but CPU counts.")
    print(f"With {'fewer' if cores >= 1 else 'any'} of them the Forebays give out first, with more Redis, which has one thread. What it can do is not")
    print("divided for one database: all checks of it are about one key. What then:\n")
    print("- several databases: each has its own key, and a Redis Cluster spreads those over its nodes; or each database has")
    print("  Forebays and a Redis of its own;")
    print("- one database that is mostly read: strict-local, whose hits ask nobody;")
    print("- one that is written much, too: more clients for each Forebay, which makes checks that are for more hits.")


def print_writes_reach(hits, writes, rest, readers, writers):
    each_hit = median(hits["strict, 4", readers], "tier")
    print("\n| | CPU µs of Redis for a write | writes/s at most | of the group at rest, CPU µs a second |")
    print("|---|---:|---:|---:|")
    for name in ("strict, 1", "strict, 2", "strict, 4", "strict-local, 2", "strict-local, 4"):
        one = median(writes[name, writers], "tier")
        members = int(name.split(", ")[1])
        print(f"| {name} | {one:.1f} | {1e6 * LOAD / one:,.0f} | {rest[name]['tier'] * members:,.0f} |")
    least = []
    for count in (2, 4):
        local, strict = (median(writes[f"{mode}, {count}", writers], "tier") for mode in ("strict-local", "strict"))
        least.append(max(0.0, (local - strict) / each_hit))
    print(f"\nStrict-local takes less of Redis than strict from {least[0]:,.0f} hits a write on with two members, from")
    print(f"{least[1]:,.0f} with four, at what a hit costs it in the last column above. What writers pay is their latency.")


def print_design(hits, writes, clients, writers):
    """Beside what the protocol was estimated to cost before it was built."""
    least, most = min(clients), max(clients)
    alone, one, many = hits["alone", least], hits["strict, 2", least], hits["strict, 4", most]
    wait = median(one, "p50") - median(alone, "p50")
    dear = median(one, "cpu") - median(alone, "cpu")
    cheap = median(many, "cpu") - median(hits["alone", most], "cpu")
    write = median(writes["strict, 2", max(writers)], "tier")
    before = median(writes["strict, 2", min(writers)], "p50") - median(writes["alone", min(writers)], "p50")
    rows = [
        ("commands for a hit, one client", "1 HMGET", f"{statistics.median(run['calls']['hmget'] / run['done'] for run in one):.2f}"),
        ("what a check adds to a hit's latency, one client", "60 to 160 µs", f"{wait:.0f} µs"),
        ("CPU of Redis for a check, one client", "1 µs", f"{check_us(one):.1f} µs"),
        ("CPU of Redis for a check, many clients", "3 µs", f"{check_us(many):.1f} µs"),
        ("CPU of Forebay that a check adds to a hit, one client", "2 µs", f"{dear:.1f} µs"),
        ("the same, many clients", "under 2 µs", f"{cheap:.1f} µs"),
        ("CPU of Redis for a write", "5 to 6 µs", f"{write:.1f} µs"),
        ("what BEGIN adds to a write's latency, one client", "one round trip", f"{before:.0f} µs"),
    ]
    print("\n## Beside the estimates\n")
    print("Those were made with 8 connections and 32 commands of each under way, which spares Redis most of its wake-ups and")
    print("system calls; here a member has one.\n")
    print("| | estimated | measured |\n|---|---:|---:|")
    for name, estimated, measured in rows:
        print(f"| {name} | {estimated} | {measured} |")
