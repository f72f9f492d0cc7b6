"""The benchmark of how soon a report opens, on a study that is opened at once; and what the documents say of the kept rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import report_opening
from foundation.errors import UserError
from tests.system.browser import CHROMIUM


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_study_of_so_many_trials_is_opened_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report_opening.main(["--trials", "30", "--times", "1", "--out", "opening.csv"]) == 0
    [row] = read(Path("opening.csv"))
    assert row["trials"] == "30" and 1 <= int(row["front"]) <= 30
    assert int(row["file_bytes"]) > 100_000 and int(row["heap_bytes"]) > 100_000
    assert float(row["load_ms_least"]) > 0 and float(row["drawn_ms_least"]) > 0
    assert "30 trials" in capsys.readouterr().out
    with pytest.raises(UserError, match="--trials 0"):
        report_opening.main(["--trials", "0"])


def test_the_kept_rows_bear_out_what_the_report_s_page_says() -> None:
    rows = {row["trials"]: row for row in read(report_opening.RESULT)}
    assert set(rows) == {"100", "500", "2000"}
    said = "A page of 2,000 trials has opened, and drawn its first chart, in under two seconds"
    text = (report_opening.ROOT / "docs" / "report.md").read_text()
    assert said in " ".join(text.split())
    assert max(float(rows["2000"][f"{what}_ms_median"]) for what in ("load", "drawn")) < 2000
