"""Registries find the files of their folder, import them on use, and take what lies elsewhere by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.registry import Registry


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[type]]:
    """A registry of a package with a class, a function, a file of several entries and a helper."""
    folder = tmp_path / "plane_shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("class Shape: ...\nLIMIT = 3\n")
    (folder / "_private.py").write_text("class Private: ...\n")
    (folder / "right_angle.py").write_text("class RightAngle: ...\n")
    (folder / "circle.py").write_text("def circle(): ...\n")
    (folder / "n_gon.py").write_text("N_GON = 5\ndef _n_gon(): ...\nclass NGon: ...\n")
    (folder / "several.py").write_text("ENTRIES = ('square', 'kite')\nsquare = object\nkite: object = type\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def accepts(value: object) -> bool:
        """a class, called without arguments"""
        return callable(value)

    yield Registry("shape", "plane_shapes", accepts)
    for name in [name for name in sys.modules if name.startswith("plane_shapes")]:
        del sys.modules[name]


def test_names_are_files_and_nothing_is_imported_for_them(shapes: Registry[type]) -> None:
    assert list(shapes) == ["circle", "kite", "n_gon", "right_angle", "square"]
    assert "kite" in shapes and "base" not in shapes and "Private" not in shapes
    assert not [name for name in sys.modules if name.startswith("plane_shapes.")]
    with pytest.raises(UserError, match=r"unknown shape 'kit'; allowed: circle, .* Did you mean 'kite'"):
        shapes["kit"]
    assert not [name for name in sys.modules if name.startswith("plane_shapes.")]


def test_an_entry_imports_its_file_alone(shapes: Registry[type]) -> None:
    assert shapes["right_angle"].__name__ == "RightAngle"
    assert shapes["circle"].__name__ == "circle"
    assert shapes["n_gon"].__name__ == "NGon"
    assert "plane_shapes.several" not in sys.modules
    assert shapes["square"] is not shapes["kite"]


def test_a_new_file_is_a_new_entry(shapes: Registry[type], tmp_path: Path) -> None:
    (tmp_path / "plane_shapes" / "hexagon.py").write_text("class Hexagon: ...\n")
    # An editor's lock, and what a file system keeps beside a file, are no entries.
    (tmp_path / "plane_shapes" / ".#kite.py").symlink_to("nobody@host.1")
    (tmp_path / "plane_shapes" / "._kite.py").write_bytes(bytes(8))
    assert "hexagon" in Registry("shape", "plane_shapes")


def test_what_lies_elsewhere_is_named_and_checked(shapes: Registry[type], tmp_path: Path) -> None:
    (tmp_path / "my_shapes_of_today.py").write_text("class Blob: ...\nnumber = 3\n")
    look_in(tmp_path)
    assert shapes["my_shapes_of_today:Blob"].__name__ == "Blob"
    assert list(shapes) == ["circle", "kite", "n_gon", "right_angle", "square"]
    with pytest.raises(UserError, match="is an int, not a shape; it should be a class"):
        shapes["my_shapes_of_today:number"]
    with pytest.raises(UserError, match="has no 'Absent'"):
        shapes["my_shapes_of_today:Absent"]
    with pytest.raises(UserError, match="there is no module 'no_such_shapes'"):
        shapes["no_such_shapes:Blob"]


def test_what_lies_elsewhere_is_no_name_here_however_often_it_was_asked_for(
    shapes: Registry[type], tmp_path: Path
) -> None:
    (tmp_path / "my_shapes_of_tomorrow.py").write_text("class Blob: ...\n")
    look_in(tmp_path)
    name = "my_shapes_of_tomorrow:Blob"
    assert name not in shapes
    assert shapes[name] is shapes[name]
    assert name not in shapes and name not in list(shapes)


def test_two_files_with_one_name_are_told_apart_by_nobody(shapes: Registry[type], tmp_path: Path) -> None:
    (tmp_path / "plane_shapes" / "round.py").write_text(
        "ENTRIES = ('disc', 'circle')\ndisc = circle = object\n"
    )
    said = r"shape 'circle' is offered by both plane_shapes\.circle and plane_shapes\.round"
    for _ in range(2):
        with pytest.raises(UserError, match=said):
            shapes["circle"]
    assert "circle" in shapes and shapes["disc"] is object


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("class Oval: ...\nclass (\n", r"oval\.py is no Python that can be read: SyntaxError: .*line 2"),
        ("ENTRIES = tuple('ab')\n", r"oval\.py: ENTRIES must be a literal tuple of names"),
        ("ENTRIES = 'oval'\n", r"oval\.py: ENTRIES must be a literal tuple of names"),
        ("ENTRIES = ('oval',)\n", "'plane_shapes.oval:oval': module 'plane_shapes.oval' has no 'oval'"),
        ("ENTRIES = {[]: 1}\n", r"oval\.py: ENTRIES must be a literal tuple of names"),
        ("oval = " + "1 + " * 30_000 + "1\n", r"oval\.py is no Python that can be read: RecursionError"),
        (
            "class Oval: ...\nclass Odd(Exception):\n    __str__ = None\nraise Odd\n",
            "Odd: no reason given .*line 4",
        ),
        ("oval = 3\n", "is an int, not a shape; it should be a class"),
        ("import no_such_thing\nclass Oval: ...\n", "failed: ModuleNotFoundError: .*no_such_thing.*line 1"),
        ("class Oval: ...\n1 / 0\n", "failed: ZeroDivisionError: .*line 2"),
        ("class Oval: ...\nclass Odd(BaseException): ...\nraise Odd('so')\n", "failed: Odd: so .*line 3"),
        (
            "class Oval: ...\nraise ValueError('\\x1b[31mred\\x07')\n",
            r"failed: ValueError: \?\[31mred\? .*line 2",
        ),
        (
            "class Oval: ...\ndel Oval\ndef __getattr__(name): raise RuntimeError(name)\n",
            "failed: RuntimeError: Oval .*line 3",
        ),
    ],
)
def test_a_mistake_in_a_file_is_said_in_a_line(
    shapes: Registry[type], tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "plane_shapes" / "oval.py").write_text(content)
    with pytest.raises(UserError, match=said) as found:
        shapes["oval"]
    assert "\n" not in str(found.value)
    assert "oval" in list(shapes) and shapes["right_angle"].__name__ == "RightAngle"  # all others are there
    assert [name for name, _ in shapes.sound()] == [name for name in shapes if name != "oval"]
    assert list(shapes.unsound()) == [str(found.value)]


def test_what_is_no_file_is_a_mistake_as_well(shapes: Registry[type], tmp_path: Path) -> None:
    (tmp_path / "plane_shapes" / "folder.py").mkdir()
    (tmp_path / "plane_shapes" / "gone.py").symlink_to("nowhere")
    (tmp_path / "plane_shapes" / "round.py").symlink_to("round.py")
    for name in ("folder", "gone", "round"):
        with pytest.raises(UserError, match=rf"{name}\.py is no Python that can be read"):
            shapes[name]
    assert shapes["circle"].__name__ == "circle"


def test_without_a_folder_only_what_was_registered() -> None:
    plain: Registry[int] = Registry("number")
    plain.register("one")(1)
    assert plain["one"] == 1 and list(plain) == ["one"]
    with pytest.raises(ValueError, match="registered already"):
        plain.register("one")(2)
    with pytest.raises(UserError, match="unknown number 'math:pi'; allowed: one"):
        plain["math:pi"]
