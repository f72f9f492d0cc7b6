"""What may be typed next is what the parser takes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from foundation.command import Parser, parser_of
from foundation.completion import candidates

VALUES = {"study": lambda: ["one", "two"], "model": lambda: ["resnet20", "resnet56", "vgg"]}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="it")
    top.add_argument("--model")
    top.add_argument("--form", choices=("text", "json"))
    top.add_argument("--dry-run", action="store_true")
    top.add_argument("--hidden", help=argparse.SUPPRESS)
    top.add_argument("--many", nargs="+", choices=("a", "b"))
    inner = top.add_subparsers()
    show = inner.add_parser("show")
    show.add_argument("study")
    show.add_argument("--full", action="store_true")
    compare = inner.add_parser("compare")
    compare.add_argument("study", nargs="+")
    return top


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--mo", ["--model"]),
        ("--hid", []),
        ("--dry-run --d", []),  # once is enough
        ("--model ", ["resnet20", "resnet56", "vgg"]),
        ("--model res", ["resnet20", "resnet56"]),
        ("--model=res", ["--model=resnet20", "--model=resnet56"]),
        ("--model = res", ["resnet20", "resnet56"]),  # bash's own way to split it
        ("--model =", ["resnet20", "resnet56", "vgg"]),
        ("--form ", ["json", "text"]),
        ("--dry-run ", ["compare", "show"]),  # takes no value
        ("--model vgg ", ["compare", "show"]),
        ("--many a ", ["a", "b"]),
        ("sh", ["show"]),
        ("show ", ["one", "two"]),
        ("show t", ["two"]),
        ("show two --f", ["--full"]),
        ("show two --mo", []),  # a flag of the outer one
        ("compare one ", ["one", "two"]),
        ("nonsense ", ["--dry-run", "--form", "--help", "--many", "--model", "--quiet", "--version"]),
    ],
)
def test_what_may_follow(typed: str, offered: list[str]) -> None:
    words = typed.split(" ")
    assert candidates(parser(), words, VALUES) == offered


def test_where_any_text_may_stand_nothing_is_offered() -> None:
    top = Parser(prog="it")
    top.add_argument("--out")
    top.add_argument("file")
    assert candidates(top, ["--out", ""], {}) == [] == candidates(top, [""], {})


def test_a_command_gives_its_parser_and_does_nothing(tmp_path: Path) -> None:
    done = []

    def main(argv: list[str]) -> int:
        own = Parser(prog="it")
        own.add_argument("needed")
        done.append(own.parse_args(argv))
        return 0

    assert [action.dest for action in parser_of(main)._actions][-1] == "needed"
    assert not done
    with pytest.raises(ValueError, match="reads no flags"):
        parser_of(lambda argv: 0)
