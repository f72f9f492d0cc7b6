"""The networks that a study's front is compared with, as they are kept in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.study.records import Figures

REFERENCES = "references.json"


def read_references(file: Path) -> dict[str, Figures]:
    """The references in ``file`` by name; none where it does not exist."""
    if not file.is_file():
        return {}
    return {r["name"]: Figures(**r["figures"]) for r in json.loads(file.read_text())}
