"""How many branches of the pure rooms the tests took, from the last run with ``--cov``: a share of lines and branches together,
which pytest shows, can stay high while choices go untried.

    .venv/bin/python tests/branches.py 95     exit status 1 where it is a smaller share, in per cent
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import coverage


def branches() -> tuple[int, int]:
    """Those taken, and all there are."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "coverage.json")
        measured.json_report(outfile=str(file))
        totals = json.loads(file.read_text())["totals"]
    return totals["covered_branches"], totals["num_branches"]


def main() -> int:
    wanted = float(sys.argv[1])
    try:
        taken, there = branches()
    except coverage.CoverageException as error:
        print(f"branches of the pure rooms: unknown, {error}")
        return 1
    print(
        f"branches of the pure rooms: {taken} of {there} taken ({100 * taken / there:.1f} %, at least {wanted:g} %)"
    )
    return 0 if 100 * taken >= wanted * there else 1


if __name__ == "__main__":
    sys.exit(main())
