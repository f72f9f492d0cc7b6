"""Tables of measurements as files: nothing that was measured is lost, and no table is taken for another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from benchmarks.rows import append, as_text, done_in, read, write
from foundation.errors import UserError


@dataclass(frozen=True)
class RowsCell:
    network: str
    bits: int
    share: float | None


def test_what_is_added_is_known_to_be_done(tmp_path: Path) -> None:
    file, cells = tmp_path / "new" / "rows.csv", [RowsCell("a, b", 2, 0.1 + 0.2), RowsCell('c "d"', 3, None)]
    assert done_in(file, RowsCell) == set()
    for cell in cells:
        append(file, {**as_text(asdict(cell)), "error": "0.5"})
    assert done_in(file, RowsCell) == {("a, b", "2", "0.3"), ('c "d"', "3", "")}
    append(file, {**as_text(asdict(cells[0])), "error": "0.25"}, ["network", "bits", "share"])
    assert [(row["network"], row["error"]) for row in read(file)] == [('c "d"', "0.5"), ("a, b", "0.25")]
    assert [path.name for path in file.parent.iterdir()] == ["rows.csv"]


def test_another_table_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    write(file, [{"network": "a", "other": 1}])
    before = file.read_text()
    with pytest.raises(
        UserError, match=r"not a table of this benchmark, it lacks bits, share; give another --out"
    ):
        done_in(file, RowsCell)
    for record, message in (
        ({"network": "b", "error": 1}, "lacks error"),
        ({"network": "b"}, "not know, other"),
    ):
        with pytest.raises(UserError, match=message):
            append(file, record)
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"network,other\n", "lacks bits, share"),
        (b"network,bits,share\na,2\n", "row 1 has not the 3 columns of the head; mend or remove it"),
        (b"network,bits,share\na,2,0.5\nb,3,0.5,9\n", "row 2 has not the 3 columns"),
        (b"network,bits,share,bits\na,2,0.5,3\n", "row 1 has not the 4 columns"),
        (b"network,bits,share\n\xff\xfe,2,\n", "cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_named_and_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        done_in(file, RowsCell)
    with pytest.raises(UserError):
        append(file, as_text(asdict(RowsCell("a", 4, 0.5))))
    assert file.read_bytes() == content


def test_a_table_from_a_spreadsheet_and_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "rows.csv").write_bytes(b"\xef\xbb\xbfnetwork,bits,share\r\na,2,\r\n")
    (tmp_path / "rows.csv").symlink_to(tmp_path / "kept" / "rows.csv")
    append(tmp_path / "rows.csv", as_text(asdict(RowsCell("b", 3, 0.5))))
    assert (tmp_path / "rows.csv").is_symlink()
    assert done_in(tmp_path / "kept" / "rows.csv", RowsCell) == {("a", "2", ""), ("b", "3", "0.5")}


def test_columns_in_another_order_are_the_same_table(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    append(file, {"a": 1, "b": 2})
    append(file, {"b": 4, "a": 3})
    assert read(file) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_processes_that_add_to_one_file_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom benchmarks.rows import append\n"
        "for place in range(20):\n    append(Path(sys.argv[1]), {'who': sys.argv[2], 'place': place})\n"
    )
    file = tmp_path / "rows.csv"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(file), str(who)]) for who in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert {(row["who"], row["place"]) for row in read(file)} == {
        (str(who), str(place)) for who in range(4) for place in range(20)
    }
