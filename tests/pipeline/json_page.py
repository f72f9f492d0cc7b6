"""What docs/json.md says that commands print."""

from __future__ import annotations

import re
from pathlib import Path

JSON = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text()


def section(title: str) -> set[str]:
    """The fields that a section names."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", JSON, re.MULTILINE | re.DOTALL)
    assert found, title
    return set(re.findall(r"`([a-z_0-9]+)`", found[1]))
