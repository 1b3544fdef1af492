"""Prints what run.sh has counted, as tables.

usage: count.py DIRECTORY COUNT BOUNCER_VERSION

Files are ROUND.KIND.TARGET.PROTOCOL.CLIENTS.once and .twice: of COUNT transactions and of twice as many.
"""

import collections
import pathlib
import re
import statistics
import sys

TARGETS = {"relayed": "Forebay, relayed", "hit": "Forebay, hit", "miss": "Forebay, miss that fills",
           "bouncer": "PgBouncer, relayed"}
PROTOCOLS = ["simple", "extended", "prepared"]
# Which system call is which column. What one thread wakes another with is an eventfd, read and written.
CALLS = {"waits": ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "select"],
         "reads": ["recvfrom", "recvmsg", "readv"],
         "writes": ["sendto", "sendmsg", "writev"],
         "futex": ["futex"],
         "eventfd": ["read", "write"]}
COLUMN_OF = {call: column for column, calls in CALLS.items() for call in calls}


def calls(text):
    """System calls by column, and the reads that found nothing."""
    found = collections.Counter()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit() and words[0] != "total":
            column = COLUMN_OF.get(words[0], "other")
            found[column] += int(words[1])
            if column == "reads" and len(words) == 3:
                found["empty"] += int(words[2])
    return found


def switches(text):
    before, after = (line.split()[1:] for line in text.splitlines())
    return {name: int(then) - int(first) for name, first, then in zip(("own", "made"), before, after)}


def user(text):
    return {"instructions": int(text)}


def total(text):
    """The last line of dhat: `1,234 bytes in 56 blocks`."""
    numbers = re.match(r"([\d,]+) bytes in ([\d,]+) blocks", text)
    return {name: int(number.replace(",", "")) for name, number in zip(("bytes", "blocks"), numbers.groups())}


FLOOR = """
The floor is two waits, two reads and two writes where PostgreSQL is asked, and one of each for a hit. With
sixteen clients one wait tells of several sockets. *futex* and *eventfd*: one thread wakes another that sleeps,
or is woken; PgBouncer has one thread. strace slows the pooler down, so that with sixteen clients more waits are
shared than without it; context switches are counted without it.
"""
COPIES = """
Copies are calls of memcpy and its kin, not those that the compiler has written out. An allocation that grows
counts once.
"""
KINDS = {"calls": calls, "switches": switches, "user": user, "heap": total, "copy": total}


class Counts:
    """What one transaction takes, by kind, target, protocol, clients and name; a list over rounds."""

    def __init__(self, directory, count):
        self.each = collections.defaultdict(list)
        self.seen = set()
        self.rounds = 0
        for once in sorted(pathlib.Path(directory).glob("*.once")):
            number, kind, target, protocol, clients, _ = once.name.split(".")
            self.rounds = max(self.rounds, int(number))
            read = KINDS[kind]
            first, then = read(once.read_text()), read(once.with_suffix(".twice").read_text())
            self.seen.add((kind, target, protocol, int(clients)))
            for name in {*first, *then}:
                taken = (then.get(name, 0) - first.get(name, 0)) / count
                self.each[kind, target, protocol, int(clients), name].append(taken)

    def number(self, *key):
        return statistics.mean(self.each.get(key, [0]))

    def rows(self, kind):
        """In the order of the tables."""
        for target in TARGETS:
            for protocol in PROTOCOLS:
                for clients in sorted({key[3] for key in self.seen}):
                    if (kind, target, protocol, clients) in self.seen:
                        yield target, protocol, clients

    def furthest(self, kind, names, clients):
        """By how much two rounds were apart, at most."""
        apart = [max(values) - min(values) for (of, _, _, by, name), values in self.each.items()
                 if of == kind and name in names and by in clients]
        return max(apart, default=0)


def small(value):
    return f"{value:.2f}".replace("-0.00", "0.00")


def large(value):
    return f"{value:,.0f}"


def calls_table(counts):
    columns = [*CALLS, "other"]
    yield "| | protocol | clients | " + " | ".join(columns) + " | reads of nothing | switches |"
    yield "|---|---|---:|" + "---:|" * (len(columns) + 2)
    for target, protocol, clients in counts.rows("calls"):
        numbers = [small(counts.number("calls", target, protocol, clients, name)) for name in [*columns, "empty"]]
        switched = sum(counts.number("switches", target, protocol, clients, name) for name in ("own", "made"))
        yield f"| {TARGETS[target]} | {protocol} | {clients} | {' | '.join(numbers)} | {small(switched)} |"


def user_table(counts):
    yield "| | protocol | instructions | allocations | bytes allocated | copies | bytes copied |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for target, protocol, clients in counts.rows("user"):
        key = (target, protocol, clients)
        yield (f"| {TARGETS[target]} | {protocol} | {large(counts.number('user', *key, 'instructions'))} "
               f"| {small(counts.number('heap', *key, 'blocks'))} | {large(counts.number('heap', *key, 'bytes'))} "
               f"| {small(counts.number('copy', *key, 'blocks'))} | {large(counts.number('copy', *key, 'bytes'))} |")


def main():
    directory, count, bouncer = sys.argv[1:]
    counts = Counts(directory, int(count))
    print("# Counts\n")
    print("`bench/count/run.sh --write` makes this file: what one transaction takes of the pooler, counted and")
    print(f"not timed, beside PgBouncer {bouncer}. A run of {int(count):,} transactions is taken off one of twice as many.\n")
    print("## System calls and context switches\n")
    print(*calls_table(counts), sep="\n")
    names = [*CALLS, "other"]
    if counts.rounds > 1:
        print(f"\nRounds were apart by {counts.furthest('calls', names, {1}):.2f} at most with one client and by "
              f"{counts.furthest('calls', names, {16}):.2f} with sixteen.")
    print(FLOOR)
    print("## In user mode, one client\n")
    print(*user_table(counts), sep="\n")
    if counts.rounds > 1:
        print(f"\nRounds were apart by {counts.furthest('user', ['instructions'], {1}):,.0f} instructions and by "
              f"{counts.furthest('heap', ['blocks'], {1}):.2f} allocations at most.")
    print(COPIES)


main()
