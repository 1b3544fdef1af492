"""Compares a report of PgBouncer's tests with the failures that are known, and prints both.

usage: pgbouncer_suite.py REPORT.xml KNOWN.txt
"""

import sys
from collections import Counter
from xml.etree import ElementTree


def known_failures(path):
    """Test to reason, from lines `file.py::test  reason`."""
    known = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.strip()
            if line and not line.startswith("#"):
                name, _, reason = line.partition(" ")
                if not reason.strip():
                    sys.exit(f"{path}: {name} has no reason")
                known[name] = reason.strip()
    return known


def outcomes(path):
    """Test to `passed`, `failed` or `skipped`; an error in a fixture is a failure."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        file = case.get("classname").rsplit(".", 1)[-1] + ".py"
        children = {child.tag for child in case}
        outcome = "passed"
        if children & {"failure", "error"}:
            outcome = "failed"
        elif "skipped" in children:
            outcome = "skipped"
        name = f"{file}::{case.get('name')}"
        if found.get(name) != "failed":
            found[name] = outcome
    return found


def main():
    report, known = outcomes(sys.argv[1]), known_failures(sys.argv[2])
    files = {}
    for name, outcome in report.items():
        files.setdefault(name.split("::")[0], Counter())[outcome] += 1
    print(f"{'file':<28}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for file, counts in sorted(files.items()):
        print(f"{file:<28}{counts['passed']:>8}{counts['failed']:>8}{counts['skipped']:>8}")
    total = Counter(report.values())
    print(f"{'all':<28}{total['passed']:>8}{total['failed']:>8}{total['skipped']:>8}")
    failed = [name for name, outcome in report.items() if outcome == "failed"]
    for name in failed:
        if name in known:
            print(f"known: {name}: {known[name]}")
    passed_after_all = [name for name in known if report.get(name) == "passed"]
    for name in passed_after_all:
        print(f"PASSED, though listed as known to fail: {name}")
    unexpected = [name for name in failed if name not in known]
    for name in unexpected:
        print(f"FAILED: {name}")
    if unexpected or passed_after_all or not report:
        sys.exit(1)


main()
