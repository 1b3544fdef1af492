"""Prints what a miss costs more than relaying, as a table.

usage: miss.py PG_BIN SECONDS ROUNDS READ_SQL NAME=URL=PID=ADMIN_URL… -- CLIENTS…     the first is the yardstick
"""

import pathlib
import re
import statistics
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent))

from measure import cpu_us  # noqa: E402


def per_transaction(pg_bin, seconds, clients, workload, target):
    _name, url, pid, admin_url = target
    subprocess.run([f"{pg_bin}/psql", "-q", admin_url, "-c", "FLUSH CACHE"], check=True, stdout=subprocess.DEVNULL)
    jobs = "2" if int(clients) > 1 else "1"
    command = [f"{pg_bin}/pgbench", "-n", "-c", clients, "-j", jobs, *workload, url]
    before = cpu_us(pid)
    subprocess.run([*command, "-t", "1"], capture_output=True, check=True)
    logins = cpu_us(pid) - before
    before = cpu_us(pid)
    output = subprocess.run([*command, "-T", seconds], capture_output=True, text=True, check=True).stdout
    done = int(re.search(r"transactions actually processed: (\d+)", output).group(1))
    return (cpu_us(pid) - before - logins) / done


def spread(ratios):
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    divider = sys.argv.index("--")
    pg_bin, seconds, rounds, sql, *described = sys.argv[1:divider]
    targets = [tuple(one.rsplit("=", 3)) for one in described]
    print("# Misses\n")
    print("`bench/miss/run.sh --write` makes this file: point reads of 1.2 kB that are not repeated, CPU of")
    print("Forebay per transaction, user and kernel time, logins taken off. *Relayed*: the cache off. *Kept*: every")
    print("answer is. *Dropped*: none is, as all are too large for `cache.max_entry_size`, which is known only when they")
    print(f"come. Medians of {rounds} rounds of {seconds} s in turn; in the columns of ratios those of a round")
    print("to what relaying cost in it, median and quartiles.\n")
    print("| | clients | relayed, µs | kept, µs | ratio | dropped, µs | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for protocol in ("simple", "extended", "prepared"):
        for clients in sys.argv[divider + 1 :]:
            run = lambda target: per_transaction(pg_bin, seconds, clients, ["-f", sql, "-M", protocol], target)
            runs = []
            for target in targets:
                run(target)
            for turn in range(int(rounds)):
                order = targets[turn % 3 :] + targets[: turn % 3]
                measured = {target: run(target) for target in order}
                runs.append([measured[target] for target in targets])
            relayed, kept, dropped = (statistics.median(column) for column in zip(*runs))
            kept_ratio = spread([kept / relayed for relayed, kept, _ in runs])
            dropped_ratio = spread([dropped / relayed for relayed, _, dropped in runs])
            cells = f"{relayed:.1f} | {kept:.1f} | {kept_ratio} | {dropped:.1f} | {dropped_ratio}"
            print(f"| {protocol} | {clients} | {cells} |", flush=True)


main()
