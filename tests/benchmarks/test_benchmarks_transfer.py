"""Two studies of one network beside each other: shares are of what both found, and a folder that is none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.transfer import main, shares
from foundation.errors import UserError


def test_shares_are_of_all_together_and_grow() -> None:
    one = [(0.5, 0.5, 0.5), (0.9, 0.9, 0.9), (0.1, 0.9, 0.5)]
    other = [(0.2, 0.2, 0.2)]
    own, theirs = shares([one, other], (1.0, 1.0, 1.0))
    # The union of a cube of .8 and what (.1, .9, .5) adds beside it: .1 x .1 x .5.
    whole = 0.8**3 + 0.1 * 0.1 * 0.5
    assert theirs == pytest.approx([0.8**3 / whole])
    assert own == pytest.approx([0.125 / whole, 0.125 / whole, (0.125 + 0.4 * 0.1 * 0.5) / whole])


def test_what_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study with a front\.json is there"):
        main([str(tmp_path)])
