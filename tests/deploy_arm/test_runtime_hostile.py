"""Valid networks of hostile numbers: all kernels agree and stay within their memory, as far as each tool chain can tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy_arm.fuzz import __main__ as fuzzing
from deploy_arm.fuzz import compare as comparing
from deploy_arm.fuzz.build import build_compare
from deploy_arm.fuzz.hostile import hostile_blobs, hostile_graph
from foundation.errors import UserError


def need_compare() -> list[str]:
    try:
        return build_compare()
    except UserError as error:
        if "needs gcc" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("networks", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_all_kernels_agree_under_sanitizers(
    networks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_compare()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "BATCH", networks // 2)  # so that both cores have their turn
    assert fuzzing.main(["--networks", str(networks)]) == 0, capsys.readouterr().err
    header, row = (line.split(",") for line in capsys.readouterr().out.replace('"', "").splitlines())
    assert row[-2:] == [str(networks), "0"] and header[-2:] == ["executions", "findings"]
    assert not list(tmp_path.iterdir())


def test_a_difference_is_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that stands for the build: it calls the second blob different."""
    script = tmp_path / "program"
    script.write_text(
        "#!/bin/sh\nfor name; do case $name in *.blob) echo $name >&2;; esac; "
        'case $name in */8.blob) echo "$name: results differ"; exit 1;; esac; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(comparing, "build_compare", lambda: [str(script)])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert fuzzing.main(["--networks", "5", "--first", "7"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].endswith(",2,1") and "8.blob: results differ" in captured.err
    (kept,) = (tmp_path / "here").iterdir()
    assert kept.name.startswith("finding-") and kept.read_bytes() == next(hostile_blobs(8, 1))


def test_without_the_sanitizers_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fuzzing.main(["--networks", "3"]) == 2
    error = capsys.readouterr().err
    assert "not have" in error and "apt-get install gcc-aarch64-linux-gnu" in error
    for wrong in (["--networks", "0"], ["--networks", "3", "--first", "-1"], ["--networks", "3", "--keep"]):
        assert fuzzing.main(wrong) == 2
        assert "--networks" in capsys.readouterr().err


def test_hostile_networks_are_hostile_and_the_same_every_time() -> None:
    assert list(hostile_blobs(3, 4)) == list(hostile_blobs(3, 4))
    text = " ".join(str(hostile_graph(seed).operations) for seed in range(12))
    assert "nan" in text and "2147483647" in text and "-128" in text
