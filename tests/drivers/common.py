"""What the Python drivers share: where the servers are, and how answers are compared.

Each workload runs in lockstep on two connections: one through Forebay to the database under
test, one straight to a twin database that has seen the same statements. An answer that differs
is a failure. Reads outside transactions are also asked of PostgreSQL directly on the database
under test, which shows a stale answer even where the twin would agree by chance.
"""

import os
import re
import sys

FOREBAY_URL = os.environ["FOREBAY_URL"]
DIRECT_URL = os.environ["DIRECT_URL"]
TWIN_URL = os.environ.get("TWIN_URL") or re.sub(r"/([^/?]+)(\?|$)", r"/\1_twin\2", DIRECT_URL)

# A page is asked for more than once; without repeats there would be nothing to hit.
REPEATS = 5
# The workload runs twice: the second time over tables dropped and made again.
RUNS = 2


class Difference(Exception):
    """Forebay's answer is not PostgreSQL's."""


class Tally:
    """Compares answers and counts them."""

    def __init__(self):
        self.count = 0

    def same(self, label, ours, theirs):
        self.count += 1
        # Types count as much as values: 1, 1.0 and True are equal to Python.
        if repr(ours) != repr(theirs):
            raise Difference(f"{label}:\n  through Forebay: {ours!r}\n  PostgreSQL:      {theirs!r}")

    def finish(self):
        # The runner reads this line.
        print(f"answers {self.count}")


def numbered_to_named(sql):
    """$1 to %(p1)s, for the drivers that speak Python's format style."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", sql.replace("%", "%%"))


def named(params):
    return {f"p{index}": value for index, value in enumerate(params, 1)}


def report(main):
    """Runs main; an answer that differs ends the script with its two versions."""
    try:
        main()
    except Difference as difference:
        sys.exit(f"DIFFERENT {difference}")
