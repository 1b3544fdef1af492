#!/usr/bin/env python3
"""The arithmetic of run.sh: one pgbench run to one line, many lines to tables in Markdown.

  table.py line OUTPUT LOGS ROUND WORKLOAD TARGET CLIENTS STATUS [CPU_NS PEAK_KB HITS MISSES]
  table.py brief LINE
  table.py table RESULTS MACHINE
  table.py self-test
"""

import json
import re
import statistics
import sys
from pathlib import Path

TARGETS = ["direct", "pgbouncer", "forebay-off", "forebay-cold", "forebay-warm"]
TITLES = {
    "select-simple": "`pgbench -S`, simple protocol, all accounts",
    "select-extended": "`pgbench -S`, extended protocol, all accounts",
    "select-prepared": "`pgbench -S`, prepared, all accounts",
    "hundred-simple": "a hundred distinct point reads, simple protocol",
    "hundred-extended": "a hundred distinct point reads, extended protocol",
    "hundred-prepared": "a hundred distinct point reads, prepared",
    "aggregate": "an aggregate over 1,001 rows with a hundred parameters",
    "rows-100": "one answer of 100 rows, prepared",
    "rows-10000": "one answer of 10,000 rows, prepared",
    "tpcb": "TPC-B, simple protocol",
    "tpcb-prepared": "TPC-B, prepared, more clients than servers",
    "connect": "`pgbench -S -C`: a new connection for each transaction",
}
# The fields that are compared as ratios to PgBouncer.
NUMBERS = ["tps", "avg_ms", "p50_ms", "p95_ms", "p99_ms", "cpu_us", "peak_kb"]


def percentile(ordered, share):
    """The nearest-rank percentile of a sorted list; None when it is empty."""
    if not ordered:
        return None
    rank = max(0, min(len(ordered) - 1, -(-len(ordered) * share // 100) - 1))
    return ordered[int(rank)]


def latencies_ms(logs):
    """Latencies in the log files of pgbench --log: the third word, in microseconds."""
    found = []
    for path in sorted(Path(logs).glob("run*")):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) >= 3 and words[2].isdigit():
                found.append(int(words[2]) / 1000)
    return sorted(found)


def read_run(output, logs, round_, workload, target, clients, status, *measured):
    """One run as a dictionary; the numbers only if it ran to its end."""
    run = {"round": int(round_), "workload": workload, "target": target,
           "clients": int(clients), "status": status}
    if status != "ok":
        return run
    text = Path(output).read_text()
    tps = re.search(r"^tps = ([\d.]+)", text, re.M)
    average = re.search(r"^latency average = ([\d.]+) ms", text, re.M)
    done = re.search(r"^number of transactions actually processed: (\d+)", text, re.M)
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.M)
    if not (tps and average and done) or int(done[1]) == 0:
        return run | {"status": "fails"}
    ordered = latencies_ms(logs)
    cpu_ns, peak_kb, hits, misses = (int(number) for number in measured)
    return run | {
        "tps": float(tps[1]), "avg_ms": float(average[1]),
        "p50_ms": percentile(ordered, 50), "p95_ms": percentile(ordered, 95),
        "p99_ms": percentile(ordered, 99),
        "cpu_us": cpu_ns / 1000 / int(done[1]) if cpu_ns > 0 else None,
        "peak_kb": peak_kb or None,
        "hit_share": hits / (hits + misses) if hits + misses > 0 else None,
        "failed": int(failed[1]) if failed else 0,
    }


def median_runs(runs):
    """Runs of one workload, target and client count to one: medians over the rounds."""
    bad = [run["status"] for run in runs if run["status"] != "ok"]
    if bad:
        return {"status": bad[0]}
    merged = {"status": "ok"}
    for name in [*NUMBERS, "hit_share"]:
        values = [run[name] for run in runs if run.get(name) is not None]
        merged[name] = statistics.median(values) if values else None
    return merged


def number(value):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_ratio(value, yardstick):
    if value is None:
        return "–"
    if not yardstick:
        return number(value)
    return f"{number(value)} ({value / yardstick:.2f})"


def group(runs):
    grouped = {}
    for run in runs:
        grouped.setdefault((run["workload"], run["clients"], run["target"]), []).append(run)
    return {key: median_runs(value) for key, value in grouped.items()}


def table_rows(cells, workload, clients):
    yardstick = cells.get((workload, clients, "pgbouncer"), {})
    for target in TARGETS:
        cell = cells.get((workload, clients, target))
        if cell is None:
            continue
        if cell["status"] != "ok":
            word = {"unsupported": "n/a: this version cannot"}.get(cell["status"], cell["status"])
            yield f"| {clients} | {target} | {word} | | | | | | | |"
            continue
        texts = [with_ratio(cell[name], yardstick.get(name)) for name in NUMBERS]
        hits = "–" if cell["hit_share"] is None else f"{100 * cell['hit_share']:.0f} %"
        yield f"| {clients} | {target} | {' | '.join(texts)} | {hits} |"


def ratios(cells, workloads, target, name, base_target, base_workload=None, at=None):
    """target's value over base_target's, for each workload and client count that has both."""
    found = []
    for (workload, clients, cell_target), cell in cells.items():
        if cell_target != target or workload not in workloads or at not in (None, clients):
            continue
        base = cells.get((base_workload or workload, clients, base_target), {})
        if cell.get(name) and base.get(name):
            found.append(cell[name] / base[name])
    return found


def goal_rows(cells):
    simple = ["select-simple", "hundred-simple"]
    goals = [
        ("CPU per relayed transaction / PgBouncer's, simple protocol", 1.0,
         ratios(cells, simple, "forebay-off", "cpu_us", "pgbouncer")),
        ("CPU per relayed transaction / PgBouncer's, extended protocol", 1.0,
         ratios(cells, ["select-extended", "hundred-extended"], "forebay-off", "cpu_us", "pgbouncer")),
        ("CPU per relayed transaction / PgBouncer's, prepared", 0.85,
         ratios(cells, ["select-prepared", "hundred-prepared"], "forebay-off", "cpu_us", "pgbouncer")),
        ("CPU per warm hit / PgBouncer's relayed query", 0.45,
         ratios(cells, ["hundred-simple"], "forebay-warm", "cpu_us", "pgbouncer")),
        ("p99 of relayed transactions of 64 clients / PgBouncer's", 1.0,
         ratios(cells, ["select-simple", "select-extended", "select-prepared"], "forebay-off", "p99_ms",
                "pgbouncer", at=64)),
        ("CPU per connection with SCRAM / PgBouncer's", 1.0,
         ratios(cells, ["connect"], "forebay-off", "cpu_us", "pgbouncer")),
    ]
    for title, limit, found in goals:
        if found:
            value = statistics.median(found)
            spread = f"{value:.2f} ({min(found):.2f} to {max(found):.2f})"
            yield f"| {title} | at most {limit} | {spread} | {'yes' if value <= limit else 'no'} |"
        else:
            yield f"| {title} | at most {limit} | not measured | – |"
    warm = ratios(cells, ["hundred-simple"], "forebay-warm", "tps", "direct")
    if warm:
        value = statistics.median(warm)
        spread = f"{value:.2f} ({min(warm):.2f} to {max(warm):.2f})"
        yield (f"| throughput of warm point reads / PostgreSQL direct | at least 2.7 | {spread} "
               f"| {'yes' if value >= 2.7 else 'no'} |")
    prepared = [(key, cell) for key, cell in cells.items() if key[0] == "tpcb-prepared"]
    ours = [cell["status"] for key, cell in prepared if key[2].startswith("forebay")]
    if ours:
        met = all(status == "ok" for status in ours)
        theirs = sorted({cell["status"] for key, cell in prepared if key[2] == "pgbouncer"})
        yield (f"| prepared TPC-B with more clients than servers | runs to its end | "
               f"{'runs' if met else ', '.join(sorted(set(ours)))} (PgBouncer: "
               f"{', '.join(theirs) or 'not run'}) | {'yes' if met else 'no'} |")


def render(runs, machine):
    cells = group(runs)
    lines = [
        "# Measured with pgbench", "",
        f"{machine['date']}: PostgreSQL {machine['postgresql']}, PgBouncer {machine['pgbouncer']}, "
        f"Forebay {machine['forebay'].strip()}; {machine['cores']} cores ({machine['cpu'] or 'unnamed'}), "
        f"{machine['memory']}, {machine['kernel']}. pgbench, the proxy and PostgreSQL share the cores.",
        "",
        f"Median of {machine['rounds']} rounds of {machine['seconds']} s in rotating order, scale "
        f"{machine['scale']}; in brackets the ratio to PgBouncer in the same row group. CPU: user and "
        "kernel time of all the proxy's threads per transaction, logins taken off. *cold*: `FLUSH CACHE` before each "
        "run; *warm*: the same workload ran for up to three seconds before. "
        "`bench/pgbench/run.sh --write` makes this file. Beside it: [reads and writes mixed](MIX.md), [idle clients](IDLE.md), [what statistics cost](INSIGHT.md), [relaying to a server that answers at once](SCRIPTED.md), [latency under load](LATENCY.md), [counts per transaction](COUNTS.md), [memory](MEMORY.md), [large results](LARGE.md), [misses](MISS.md), [Unix sockets](SOCKETS.md), [scaling, on paper](SCALING.md).", "",
        "## Goals", "", "| goal | wanted | measured | met |", "|---|---|---|---|",
        *goal_rows(cells), "",
    ]
    for workload, title in TITLES.items():
        counts = sorted({clients for name, clients, _ in cells if name == workload})
        if not counts:
            continue
        lines += [
            f"## {title[0].upper()}{title[1:]}", "",
            "| clients | | transactions/s | mean ms | p50 ms | p95 ms | p99 ms | CPU µs | peak kB | hits |",
            "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for clients in counts:
            lines += table_rows(cells, workload, clients)
        lines.append("")
    lines.append((Path(__file__).parent / "limits.md").read_text())
    return "\n".join(lines)


def brief(run):
    if run["status"] != "ok":
        return run["status"]
    hits = "" if run["hit_share"] is None else f"  hits {100 * run['hit_share']:.0f} %"
    cpu = "" if run["cpu_us"] is None else f"  {run['cpu_us']:.1f} µs CPU"
    return f"{run['tps']:>9,.0f} tps  p99 {number(run['p99_ms'])} ms{cpu}{hits}"


def self_test():
    assert percentile([], 50) is None
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7], 99) == 7

    def run(target, tps, cpu_us, workload="hundred-simple", status="ok"):
        return {"round": 1, "workload": workload, "target": target, "clients": 1, "status": status,
                "tps": tps, "avg_ms": 1.0, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0,
                "cpu_us": cpu_us, "peak_kb": 100, "hit_share": None}

    assert median_runs([run("a", 1, 1), run("a", 9, 5), run("a", 2, 3)])["tps"] == 2
    assert median_runs([run("a", 1, 1), run("a", 1, 1, status="hangs")]) == {"status": "hangs"}
    runs = [run("direct", 100, None), run("pgbouncer", 50, 20), run("forebay-off", 60, 30),
            run("forebay-warm", 300, 8), run("pgbouncer", 0, 0, "tpcb-prepared", "hangs"),
            run("forebay-off", 5, 5, "tpcb-prepared")]
    goals = list(goal_rows(group(runs)))
    assert goals[0].endswith("| 1.50 (1.50 to 1.50) | no |"), goals[0]
    assert goals[1].endswith("| not measured | – |"), goals[1]
    assert goals[3].endswith("| 0.40 (0.40 to 0.40) | yes |"), goals[3]
    assert goals[4].endswith("| not measured | – |"), goals[4]
    assert goals[6].endswith("| 3.00 (3.00 to 3.00) | yes |"), goals[6]
    assert goals[7].endswith("| runs (PgBouncer: hangs) | yes |"), goals[7]
    rows = list(table_rows(group(runs), "hundred-simple", 1))
    assert rows[0].startswith("| 1 | direct | 100.0 (2.00) |"), rows[0]
    assert rows[0].endswith("| – | 100.0 (1.00) | – |"), rows[0]
    print("table.py: self-test passed")


def main(arguments):
    command, *rest = arguments or ["help"]
    if command == "line":
        print(json.dumps(read_run(*rest)))
    elif command == "brief":
        print(brief(json.loads(rest[0])))
    elif command == "table":
        runs = [json.loads(line) for line in Path(rest[0]).read_text().splitlines()]
        machine = dict(line.split("=", 1) for line in Path(rest[1]).read_text().splitlines())
        print(render(runs, machine))
    elif command == "self-test":
        self_test()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
