"""Tables of what tests came to, kept from run to run: a run replaces the rows of the tests that it ran, and no others."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

Note = Callable[[str, str], None]
"""What the fixture ``fault`` is: notes what was done, and what was found afterwards."""


def keep_rows(
    path: Path, head: Sequence[str], rows: Sequence[Sequence[object]], ran: Collection[str], root: Path
) -> None:
    """Write the table anew, its rows in order.

    Args:
        path: of the CSV; it need not be there.
        head: the names of its columns, ``test`` among them.
        rows: the new ones.
        ran: the tests, by their node ids, whose old rows no longer hold.
        root: of the checkout. A row goes too where its test is no longer there.
    """
    column = head.index("test")
    before: list[list[str]] = []
    if path.exists():
        with path.open(newline="") as file:
            before = [row for row in csv.reader(file) if len(row) == len(head)][1:]
    new = [[str(value) for value in row] for row in rows]
    stay = [row for row in before if row[column] not in ran and is_there(row[column], root)]
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows(sorted([*stay, *new]))


def is_there(test: str, root: Path) -> bool:
    """Whether the function of a node id, ``FILE::NAME[PARAMETERS]``, still stands in its file."""
    file, _, name = test.partition("::")
    function = name.partition("[")[0].rpartition("::")[2]
    return (root / file).is_file() and f"def {function}(" in (root / file).read_text()
