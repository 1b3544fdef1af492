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
    "node-postgres": ["node", HERE / "node_postgres.js"],
    "tokio-postgres": [os.environ.get("DRIVER_RUST", "driver_tokio_postgres")],
}
# A workload takes seconds; one that waits for ever is a finding, not a reason to wait with it.
SECONDS_MAX = int(os.environ.get("FOREBAY_DRIVER_SECONDS", "180"))
SHARE_MIN = 30


def cache_counters():
    """Hits and misses of this Forebay so far; None without a console to ask."""
    if not os.environ.get("ADMIN_URL"):
        return None
    answer = subprocess.run(
        [os.environ.get("PSQL", "psql"), "--csv", "-X", os.environ["ADMIN_URL"], "-c", "SHOW CACHE"],
        capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        print(f"the console does not answer SHOW CACHE: {answer.stderr.strip()}", flush=True)
        return None
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    return tuple(sum(int(row[name] or 0) for row in rows) for name in ("hits", "misses"))


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
    share, hits = None, None
    if before and after:
        hits, misses = after[0] - before[0], after[1] - before[1]
        share = 100 * hits / (hits + misses) if hits + misses else 0.0
    if status != 0 or not counted:
        return [name, "FAILED", "", "", "", seconds], f"exit {status}\n{output}{errors}"
    row = [name, "equal", counted[1], hits, share, seconds]
    wanted = expected_share()
    if wanted is not None and (share is None or share < wanted):
        return [name, "TOO FEW HITS", *row[2:]], f"{share} % of look-ups were hits, {wanted} % are expected"
    return row, None


def expected_share():
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
