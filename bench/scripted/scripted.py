"""Prints what relaying costs where the server costs nothing, as tables.

usage: scripted.py WIRE SECONDS ROUNDS SERVER_PID NAME=URL=PID… -- CLIENTS…
"""

import collections
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

PROTOCOLS = ("simple", "extended", "prepared")

# Fewer say nothing, and come from a kernel that lets nobody look.
SAMPLES_MIN = 500

# By the function in the kernel that a call ends in.
CALLS = {
    "sending": ("sys_sendto", "sys_write", "sys_writev", "sys_sendmsg"),
    "receiving": ("sys_recvfrom", "sys_read", "sys_readv", "sys_recvmsg"),
    "waiting for sockets": ("sys_epoll_wait", "sys_epoll_pwait", "sys_epoll_pwait2", "sys_epoll_ctl"),
    "waking threads": ("sys_futex", "eventfd_write"),
}


def load(wire, target, protocol, clients, seconds, server):
    """What `wire load` printed, as numbers by name."""
    _, url, pid = target
    watched = [f"server={server}", *([f"proxy={pid}"] if pid else [])]
    command = [wire, "load", "--url", url, "--protocol", protocol, "--connections", str(clients)]
    command += ["--seconds", str(seconds), "--warm", "0.5"]
    for one in watched:
        command += ["--cpu-of", one]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    words = dict(word.split("=", 1) for word in output.split())
    words.pop("protocol")
    return {name: float(value) for name, value in words.items()}


def measure(wire, targets, protocol, clients, seconds, rounds, server):
    """Medians over rounds, by the name of the target."""
    found = collections.defaultdict(list)
    for round_ in range(rounds):
        for place in range(len(targets)):
            target = targets[(round_ + place) % len(targets)]
            found[target[0]].append(load(wire, target, protocol, clients, seconds, server))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def kind(frames):
    """Where a sample was, from its stack, innermost first."""
    for frame in frames:  # eventfd_write comes before the sys_write that it is part of
        for name, calls in CALLS.items():
            if any(frame.endswith(call) for call in calls):
                return name
    inner = frames[0] if frames else ""
    return "user mode" if inner.startswith("user ") else "else in the kernel"


def profile(wire, target, protocol, clients, seconds, server):
    """Shares of CPU time by kind of work; None if perf does not work here."""
    with tempfile.TemporaryDirectory() as scratch:
        data = pathlib.Path(scratch) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g", "-o", data, "-p", target[2]]
        perf = subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        load(wire, target, protocol, clients, max(seconds, 4), server)
        perf.terminate()
        perf.wait()
        script = ["perf", "script", "-i", data, "-F", "ip,sym,dso"]
        text = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    counts = collections.Counter()
    for sample in text.split("\n\n"):
        frames = []
        for line in sample.splitlines():
            words = line.split()
            if len(words) >= 3:
                frames.append(words[1] if words[-1].startswith("([kernel") else f"user {words[1]}")
        if frames:
            counts[kind(frames)] += 1
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total >= SAMPLES_MIN else None


def print_profile(wire, targets, clients, seconds, server, measured):
    names = ["user mode", *CALLS, "else in the kernel"]
    rows, more = [], []
    for protocol in PROTOCOLS:
        split = []
        for target in targets:
            shares = profile(wire, target, protocol, clients, seconds, server)
            if shares is None:
                return
            cpu = measured[protocol, clients][target[0]]["proxy_cpu"]
            split.append([cpu * shares.get(name, 0) for name in names])
            cells = (f"{part:.1f}" for part in split[-1])
            rows.append(f"| {protocol} | {target[0]} | {cpu:.1f} | {' | '.join(cells)} |")
        bouncer, forebay = split
        total = sum(forebay) - sum(bouncer)
        more.append(f"{total:+.1f} µs ({protocol}), of it {forebay[0] - bouncer[0]:+.1f} in user mode")
    print(f"\n## Where the time goes\n\nCPU µs of the proxy per transaction at {clients} clients, split as `perf record -e")
    print("cpu-clock` saw it. Sending over loopback includes what the kernel does for the receiver.\n")
    print(f"| | | CPU | {' | '.join(names)} |")
    print(f"|---|---|{'---:|' * (len(names) + 1)}")
    print("\n".join(rows))
    print(f"\nForebay's CPU against PgBouncer's: {'; '.join(more)}.")


def main():
    divider = sys.argv.index("--")
    wire, seconds, rounds, server, *targets = sys.argv[1:divider]
    counts = [int(count) for count in sys.argv[divider + 1 :]]
    targets = [target.rsplit("=", 2) for target in targets]
    proxies = targets[1:]
    bouncer, forebay = (name for name, _, _ in proxies)
    seconds, rounds = float(seconds), int(rounds)
    cores = os.cpu_count()
    measured = {}
    busy = os.getloadavg()[0]
    print("# In front of a server that answers at once\n")
    print("`bench/scripted/run.sh --write` makes this file: one Forebay with the cache off and one PgBouncer, each in")
    print("front of `wire serve` (one row, at once), asked by `wire load` (closed loop, 100 distinct point reads; both")
    print(f"are `bench/wire`). The load, the proxy and the server share {cores} cores; the last columns are what the other")
    print(f"two take of them. Median of {rounds} rounds of {seconds:g} s in turn; in brackets the ratio to PgBouncer. CPU: user")
    print("and kernel time of all threads per transaction, logins not counted. Other work on the machine as the run")
    print(f"began: load average {busy:.1f}; it takes from transactions/s, least from the ratios of CPU.\n")
    print("| clients | protocol | | transactions/s | CPU µs | p50 µs | p99 µs | load, CPU µs | server, CPU µs |")
    print("|---:|---|---|---:|---:|---:|---:|---:|---:|")
    for clients in counts:
        for protocol in PROTOCOLS:
            cell = measure(wire, targets, protocol, clients, seconds, rounds, server)
            measured[protocol, clients] = cell
            yardstick = cell[bouncer]
            for name, _, _ in targets:
                row = cell[name]
                ratio = lambda key, text: f"{text} ({row[key] / yardstick[key]:.2f})"
                cpu = ratio("proxy_cpu", f"{row['proxy_cpu']:.1f}") if "proxy_cpu" in row else "–"
                texts = [ratio("rate", f"{row['rate']:,.0f}"), cpu]
                texts += [ratio(key, f"{row[key]:,.0f}") for key in ("p50", "p99")]
                texts += [f"{row['load_cpu']:.1f}", f"{row['server_cpu']:.1f}"]
                print(f"| {clients} | {protocol} | {name} | {' | '.join(texts)} |", flush=True)
    print("\n## With cores of its own\n")
    print("Computed, not measured: a process that is the limit does one transaction in its CPU time, PgBouncer on")
    print(f"one core, since it has one thread, and Forebay on {cores}, if nothing but CPU time counts.\n")
    print("| clients | protocol | PgBouncer, transactions/s | Forebay, transactions/s | ratio |")
    print("|---:|---|---:|---:|---:|")
    for (protocol, clients), cell in measured.items():
        one, other = 1e6 / cell[bouncer]["proxy_cpu"], cores * 1e6 / cell[forebay]["proxy_cpu"]
        print(f"| {clients} | {protocol} | {one:,.0f} | {other:,.0f} | {other / one:.2f} |")
    if shutil.which("perf"):
        print_profile(wire, proxies, counts[0], seconds, server, measured)


main()
