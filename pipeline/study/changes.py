"""What is another than it was, in words: two plain values beside each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from foundation.files import json_text


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """``bits was [2, 4], now [4]`` of each value that differs, named by its keys; what is not there is ``none``; ``where``: the
    keys that lead here."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where} was {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and None in value:
        return f"[{', '.join(map(_short, value))}]"
    text = json_text(value, ensure_ascii=False)
    return (
        text
        if len(text) <= 60 or isinstance(value, str)
        else f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
    )
