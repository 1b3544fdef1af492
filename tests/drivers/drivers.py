"""Runs the driver scripts one after the other, asks the console for their hits, prints a table."""

import csv
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("DRIVER_PYTHON", sys.executable)
DRIVERS = {
    "psycopg2": [PYTHON, HERE / "psycopg2_workload.py"],
    "psycopg3": [PYTHON, HERE / "psycopg3_workload.py"],
    "asyncpg": [PYTHON, HERE / "asyncpg_workload.py"],
    "sqlalchemy": [PYTHON, HERE / "sqlalchemy_workload.py"],
    "django": [PYTHON, HERE / "django_workload.py"],
    "django-routes": [PYTHON, HERE / "django_routes_workload.py"],
    "node-postgres": ["node", HERE / "node_postgres.js"],
    "tokio-postgres": [os.environ.get("DRIVER_RUST", "driver_tokio_postgres")],
}
# A workload takes seconds; one that waits for ever is a finding, not a reason to wait with it.
SECONDS_MAX = int(os.environ.get("FOREBAY_DRIVER_SECONDS", "180"))
SHARE_MIN = 30
# What verify mode and the audit ask of Django, in per cent.
DJANGO_SHARE_MIN = 80
SURPLUS_MAX = 5


def console(show):
    """Rows of the console as dictionaries; None without a console to ask."""
    if not os.environ.get("ADMIN_URL"):
        return None
    answer = subprocess.run(
        [os.environ.get("PSQL", "psql"), "--csv", "-X", os.environ["ADMIN_URL"], "-c", show],
        capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        print(f"the console does not answer {show}: {answer.stderr.strip()}", flush=True)
        return None
    return list(csv.DictReader(io.StringIO(answer.stdout)))


def cache_counters():
    """Every counter of SHOW CACHE so far; None without a console to ask."""
    rows = console("SHOW CACHE")
    return rows and {name: int(value) for name, value in rows[0].items() if (value or "").isdigit()}


def run(name):
    before, started = cache_counters(), time.monotonic()
    try:
        process = subprocess.run([str(word) for word in DRIVERS[name]], capture_output=True, text=True,
                                 timeout=SECONDS_MAX, cwd=HERE, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        status, output, errors = process.returncode, process.stdout, process.stderr
    except subprocess.TimeoutExpired as expired:
        status, output, errors = f"no end after {SECONDS_MAX} s", "", (expired.stderr or b"").decode()
    seconds, after = time.monotonic() - started, cache_counters()
    counted = re.search(r"^answers (\d+)$", output, re.M)
    share, hits, moved = None, None, {}
    if before and after:
        moved = {counter: value - before.get(counter, 0) for counter, value in after.items()}
        # What is verified counts as a miss too, since PostgreSQL answers it.
        hits, look_ups = moved["hits"] + moved["would_hit"], moved["hits"] + moved["misses"]
        share = 100 * hits / look_ups if look_ups else 0.0
    if status != 0 or not counted:
        return [name, "FAILED", "", "", "", seconds], f"exit {status}\n{output}{errors}"
    row = [name, "equal", counted[1], hits, share, seconds]
    proof = proved(name, moved)
    if proof:
        return [name, "UNPROVEN", *row[2:]], proof
    wanted = expected_share(name)
    if wanted is not None and (share is None or share < wanted):
        return [name, "TOO FEW HITS", *row[2:]], f"{share} % of look-ups were hits, {wanted} % are expected"
    return row, None


def proved(name, moved):
    """Prints what was verified and audited; gives what is wrong with that."""
    wrong = []
    if os.environ.get("FOREBAY_VERIFY"):
        print("    verified {verified} the same, {other_order} in another order, {incomparable} incomparable, "
              "{differences} different".format(**moved), flush=True)
        if moved["verified"] == 0 or moved["differences"] > 0:
            wrong.append(f"differences: {console('SHOW CACHE_DIFFERENCES')}")
    if os.environ.get("FOREBAY_AUDIT"):
        whole = [f"{name.removeprefix('database_')} {count}" for name, count in moved.items()
                 if name.startswith("database_") and count]
        print("    asked before {asked_known} commits: {asked_tables} tables made fresh, {surplus} of them for nothing, "
              "{unforeseen} overlooked; whole database {invalidated_database} times".format(**moved),
              f"({', '.join(whole)})", flush=True)
        if moved["asked_known"] == 0 or moved["unforeseen"] > 0:
            wrong.append("tables were overlooked, see the log")
        if name == "django" and moved["surplus"] * 100 > moved["asked_tables"] * SURPLUS_MAX:
            wrong.append(f"more than {SURPLUS_MAX} % of tables were made fresh for nothing")
    return "; ".join(wrong)


def expected_share(name):
    if os.environ.get("FOREBAY_VERIFY") and name == "django":
        return DJANGO_SHARE_MIN
    word = os.environ.get("FOREBAY_EXPECT_HITS", "")
    if word in ("", "0"):
        return None
    return SHARE_MIN if word in ("1", "yes", "true") else float(word)


def main(names):
    unknown = [name for name in names if name not in DRIVERS]
    if unknown:
        sys.exit(f"unknown driver {', '.join(unknown)}; there are {', '.join(DRIVERS)}")
    rows, failures = [], []
    for name in names or DRIVERS:
        print(f"  {name} …", flush=True)
        row, failure = run(name)
        rows.append(row)
        if failure:
            failures.append(name)
            print(f"{name}: {failure}", flush=True)
    print(f"\n{'driver':16} {'answers are':13} {'compared':>8} {'hits':>7} {'of look-ups':>11} {'seconds':>8}")
    for name, verdict, count, hits, share, seconds in rows:
        share = f"{share:.1f} %" if isinstance(share, float) else "–"
        print(f"{name:16} {verdict:13} {count:>8} {'–' if hits is None else hits:>7} {share:>11} {seconds:8.1f}")
    print(f"\n{len(rows) - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
