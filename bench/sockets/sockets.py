"""Prints what sockets cost, as a table.

usage: sockets.py PGBENCH SECONDS ROUNDS CLIENTS SCRIPT NAME=URL=PID…     the first of a kind is the yardstick
"""

import pathlib
import re
import statistics
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent))

from measure import cpu_us  # noqa: E402


def run(pgbench, seconds, clients, script, target):
    """CPU per transaction without logins, and transactions a second."""
    _name, url, pid = target
    command = [pgbench, "-n", "-M", "prepared", "-c", clients, "-j", "2", "-f", script, url]
    before = cpu_us(pid)
    subprocess.run([*command, "-t", "1"], capture_output=True, check=True)
    logins = cpu_us(pid) - before
    before = cpu_us(pid)
    output = subprocess.run([*command, "-T", seconds], capture_output=True, text=True, check=True).stdout
    done = int(re.search(r"transactions actually processed: (\d+)", output).group(1))
    rate = float(re.search(r"tps = ([\d.]+)", output).group(1))
    return (cpu_us(pid) - before - logins) / done, rate


def main():
    pgbench, seconds, rounds, clients, script, *described = sys.argv[1:]
    targets = [tuple(one.rsplit("=", 2)) for one in described]
    measured = {target: [] for target in targets}
    for target in targets:
        run(pgbench, seconds, clients, script, target)
    for turn in range(int(rounds)):
        for target in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
            measured[target].append(run(pgbench, seconds, clients, script, target))
    print("# Unix sockets\n")
    print("`bench/sockets/run.sh --write` makes this file: a hundred distinct point reads, prepared, of")
    print(f"{clients} clients; CPU of Forebay per transaction, user and kernel time, logins taken off. Median of")
    print(f"{rounds} rounds of {seconds} s in turn; in brackets the median of the ratios to TCP, round by round.\n")
    print("| | CPU µs | transactions/s |\n|---|---:|---:|")
    for target in targets:
        kind = target[0].split(",")[0]
        base = next(measured[other] for other in targets if other[0].startswith(kind))
        cells = []
        for column, form in ((0, "{:.1f}"), (1, "{:,.0f}")):
            value = statistics.median(one[column] for one in measured[target])
            ratio = statistics.median(one[column] / yard[column] for one, yard in zip(measured[target], base))
            cells.append(f"{form.format(value)} ({ratio:.2f})")
        print(f"| {target[0]} | {' | '.join(cells)} |")


main()
