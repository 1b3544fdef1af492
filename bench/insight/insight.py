"""Prints what statistics cost, as a table.

usage: insight.py PGBENCH SECONDS ROUNDS CLIENTS ON_URL=PID OFF_URL=PID HUNDRED_SQL
"""

import pathlib
import re
import statistics
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent))

from measure import cpu_us  # noqa: E402


def per_transaction(pgbench, seconds, clients, workload, target):
    url, pid = target.rsplit("=", 1)
    command = [pgbench, "-n", "-c", clients, "-j", "2", *workload, url]
    before = cpu_us(pid)
    subprocess.run([*command, "-t", "1"], capture_output=True, check=True)
    logins = cpu_us(pid) - before
    before = cpu_us(pid)
    output = subprocess.run([*command, "-T", seconds], capture_output=True, text=True, check=True).stdout
    done = int(re.search(r"transactions actually processed: (\d+)", output).group(1))
    return (cpu_us(pid) - before - logins) / done


def main():
    pgbench, seconds, rounds, clients, on, off, hundred = sys.argv[1:]
    workloads = {}
    for protocol in ("simple", "extended", "prepared"):
        workloads[f"relayed, {protocol}"] = ["-S", "-M", protocol]
        workloads[f"hits, {protocol}"] = ["-f", hundred, "-M", protocol]
    print("# What statistics cost\n")
    print("`bench/insight/run.sh --write` makes this file: CPU of Forebay per transaction, user and kernel")
    print(f"time, logins taken off, with all statistics on and with all of them off; {clients} clients, {rounds}")
    print(f"rounds of {seconds} s in turn. *more*: median, and quartiles, of what a round cost more.\n")
    print("| | on, µs | off, µs | more |")
    print("|---|---:|---:|---:|")
    for name, workload in workloads.items():
        run = lambda target: per_transaction(pgbench, seconds, clients, workload, target)
        for target in (on, off):
            run(target)
        pairs = []
        for round_ in range(int(rounds)):
            order = (on, off) if round_ % 2 else (off, on)
            measured = {target: run(target) for target in order}
            pairs.append((measured[on], measured[off]))
        ratios = [100 * (one / other - 1) for one, other in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ons, offs = (statistics.median(column) for column in zip(*pairs))
        print(f"| {name} | {ons:.1f} | {offs:.1f} | {middle:.1f} % ({low:.1f} to {high:.1f}) |", flush=True)


main()
