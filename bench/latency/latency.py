"""Measures latency against the rate of requests; prints the table and draws the plot.

usage: latency.py WIRE PROTOCOL CLIENTS SECONDS ROUNDS SVG NAME=URL… -- RATE…
"""

import collections
import statistics
import subprocess
import sys
import time

import plot

# Of what was asked; who answers less in the time is behind for good.
BORNE = 0.95


# Share of CPU time that others take, above which nothing can be concluded.
BUSY = 0.1


def others():
    """Share of CPU time that was taken in a second in which we ask nothing. A load average would count the build."""

    def told():
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    total, idle = told()
    time.sleep(1)
    total_after, idle_after = told()
    return 1 - (idle_after - idle) / (total_after - total)


def load(wire, url, protocol, clients, seconds, rate, seed):
    """What `wire load` printed, as numbers by name."""
    command = [wire, "load", "--url", url, "--protocol", protocol, "--connections", clients, "--seconds", seconds]
    command += ["--warm", "0.5", "--rate", str(rate), "--seed", str(seed)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    words = dict(word.split("=", 1) for word in output.split())
    words.pop("protocol")
    return {name: float(value) for name, value in words.items()}


def is_borne(run):
    """As many as chance had come, which at low rates are not what the rate says."""
    return run["done"] >= BORNE * run["measured"] and run["unsent"] == 0


def sweep(ask, targets, rates, rounds):
    """For each target its medians at rising rates, the last of them not borne unless rates ran out."""
    found = {name: [] for name, _ in targets}
    left = list(targets)
    for rate in rates:
        runs = collections.defaultdict(list)
        for round_ in range(rounds):
            for place in range(len(left)):
                name, url = left[(round_ + place) % len(left)]
                runs[name].append(ask(url, rate, round_ + 1))
        for name, some in runs.items():
            middle = {key: statistics.median(run[key] for run in some) for key in some[0]}
            middle["borne"] = sum(map(is_borne, some)) * 2 > len(some)
            found[name].append(middle)
            print(f"  {rate:>6}/s  {name:<20} p50 {middle['p50']:>9.0f} µs  p99 {middle['p99']:>9.0f} µs"
                  f"  answered {middle['rate']:.0f}/s", file=sys.stderr)
        left = [target for target in left if found[target[0]][-1]["borne"]]
    return found


def milliseconds(micros):
    value = micros / 1000
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def print_table(found, rates):
    print(f"| offered a second | {' | '.join(f'{name}: p50' + ' | p99' for name in found)} |")
    print(f"|---:|{'---:|' * (2 * len(found))}")
    for rate in rates:
        cells = []
        for runs in found.values():
            run = next((run for run in runs if run["offered"] == rate), None)
            if run is None:
                cells += ["", ""]
            elif not run["borne"]:
                cells += [f"answers {run['rate']:,.0f}", ""]
            else:
                cells += [milliseconds(run["p50"]), milliseconds(run["p99"])]
        if any(cells):
            print(f"| {rate:,} | {' | '.join(cells)} |")


def main():
    divider = sys.argv.index("--")
    wire, protocol, clients, seconds, rounds, svg, *targets = sys.argv[1:divider]
    rates = sorted(int(rate) for rate in sys.argv[divider + 1 :])
    busy = others()
    targets = [tuple(target.split("=", 1)) for target in targets]
    ask = lambda url, rate, seed: load(wire, url, protocol, clients, seconds, rate, seed)
    for _, url in targets:
        # Fills the cache, and has servers connected.
        ask(url, rates[0], 0)
    found = sweep(ask, targets, rates, int(rounds))
    with open(svg, "w") as file:
        file.write(plot.draw(found, protocol, clients))
    print("# Latency under load\n")
    print("![p50 and p99 of the time to an answer against requests a second](latency.svg)\n")
    print("`bench/latency/run.sh --write` makes this file and the plot: point reads of a hundred accounts, protocol")
    print(f"{protocol}, over {clients} connections, asked by `wire load` (`bench/wire`) as a Poisson process, whether answers")
    print("come or not (open loop). A time counts from the moment the request should have been sent, so it holds the wait")
    print("for a free connection and for a sender that the machine did not run. The load, the proxy and PostgreSQL share")
    print(f"the cores. Milliseconds, median of {rounds} rounds of {seconds} s; *answers n*: at that rate no more than n a")
    print("second are answered, and those that wait grow without end; higher rates are left out. As the run began, other work")
    print(f"took {busy:.0%} of the machine's CPU time.\n")
    if busy > BUSY:
        print("**So much other work makes these the machine's figures, p99 above all: they are to be taken anew on a")
        print("quiet one, and no conclusion is drawn from them.**\n")
    print_table(found, rates)
    if busy <= BUSY:
        print("\n## What it shows\n")
        print(conclusions(found))


def highest(runs):
    return max((run["offered"] for run in runs if run["borne"]), default=0)


def conclusions(found):
    """The sentences that the figures themselves decide."""
    lines = [f"- {name} keeps up with {highest(runs):,.0f} a second." for name, runs in found.items()]
    names = list(found)
    common = min(map(highest, found.values()))
    at = {name: next((run for run in found[name] if run["offered"] == common), None) for name in names}
    if all(at.values()):
        told = "; ".join(f"{name} {milliseconds(run['p50'])} and {milliseconds(run['p99'])}" for name, run in at.items())
        lines.append(f"- At {common:,.0f} a second, the highest rate that all keep up with, p50 and p99 in ms are: {told}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
