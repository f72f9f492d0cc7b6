"""What a person names by ``package.module:function`` and is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.factories import find_named

MODULE = """
from pathlib import Path

class Refuses:
    def __getattribute__(self, name):
        raise RuntimeError(f"nobody may ask for {name}")

proxy = Refuses()

def network():
    return None

def _hidden():
    return None
"""


def test_a_name_that_is_not_there_is_told_with_those_that_are_whatever_else_the_module_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "refusing_members.py").write_text(MODULE)
    (tmp_path / "no_members.py").write_text("from pathlib import Path\n")
    for name in ("refusing_members", "no_members"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=r"has no 'net'; name one of its own: Refuses, network$"):
        find_named("refusing_members:net")
    with pytest.raises(UserError, match="has no 'net'; nothing is defined in it"):
        find_named("no_members:net")
