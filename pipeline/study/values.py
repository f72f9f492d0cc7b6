"""What may be given for a setting, in a flag or a YAML file: a parser for each kind of value, whose ValueError says what may."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.factories import is_factory
from foundation.plan import BITS
from pipeline.study.records import OBJECTIVES
from pipeline.training.settings import ACCURACY, AP50


def plain_text(text: Any) -> str:
    """Text as it is; YAML takes words like ``no`` and ``2026-11-27`` for something else."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("give text, in quotes where it is a word like no, on or a date")
    if not str(text).strip():
        raise ValueError("is empty; give one, or leave it out")
    return str(text)


def metric_name(text: Any) -> str | None:
    """``package.module:function``, or ``AP50`` of detectors; None of ``accuracy``, which is what is usual."""
    if text not in (ACCURACY, AP50) and not is_factory(plain_text(text)):
        raise ValueError(f"give package.module:function, or {ACCURACY}")
    return None if text == ACCURACY else str(text)


def file_path(text: Any) -> Path:
    """A path as it was given."""

    return text if isinstance(text, Path) else Path(plain_text(text))


def bit_widths(text: Any) -> tuple[int, ...]:
    """Of ``2,4,8`` or a list, ascending, each once."""

    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    values = {str(part).strip() for part in parts}
    if not values or values - set(map(str, BITS)):
        raise ValueError(f"allowed are {','.join(map(str, BITS))}, separated by commas")
    return tuple(sorted(map(int, values)))


def dimension_words(text: Any) -> tuple[str, ...]:
    """``NAME`` or ``NAME=VALUE,VALUE``, separated by spaces or in a list."""

    parts = text if isinstance(text, (list, tuple)) else str(text).split()
    if not all(isinstance(part, str) and part.strip("=") and not part.startswith("=") for part in parts):
        raise ValueError("give NAME or NAME=VALUE,VALUE, separated by spaces")
    return tuple(parts)


def objective_names(text: Any) -> tuple[str, ...]:
    """Two or three of ``OBJECTIVES``, in that order."""

    names = tuple(text if isinstance(text, (list, tuple)) else str(text).split(","))
    if len(names) < 2 or len(set(names)) < len(names) or any(name not in OBJECTIVES for name in names):
        raise ValueError(f"give two or three of {','.join(OBJECTIVES)}, separated by commas")
    return tuple(name for name in OBJECTIVES if name in names)


def duration(text: Any) -> float:
    """Seconds of ``90``, ``90s``, ``45m``, ``2h`` or ``1d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(text).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError("give a time like 90s, 45m, 2h or 1d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def on_or_off(text: Any) -> str:
    """``on`` or ``off``, which YAML reads as truth values."""
    said = ("off", "on")[text] if isinstance(text, bool) else plain_text(text)
    if said not in ("on", "off"):
        raise ValueError("give on or off")
    return said


def at_least(kind: type, low: float, *, exclusive: bool = False) -> Callable[[Any], Any]:
    """A parser of finite numbers of that kind, of at least ``low`` or, if ``exclusive``, above it."""

    def parse(text: Any) -> Any:
        try:
            value = kind(text)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"give {'a whole number' if kind is int else 'a number'}") from error
        if isinstance(text, bool) or (isinstance(text, float) and value != text == text):
            raise ValueError(f"give {'a whole number' if kind is int else 'a number'}")
        if not (value > low if exclusive else value >= low) or value == float("inf"):
            raise ValueError(
                f"give a {'finite ' if value == float('inf') else ''}number {'above' if exclusive else 'of at least'} {low:g}"
            )
        return value

    return parse


def byte_count(text: Any) -> int:
    """Bytes of ``70000``, ``64KiB``, ``1.5MiB`` or ``200kB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|KiB|MiB)?", str(text).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError("give a size like 70000, 64KiB or 1.5MiB")
    units = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1_000_000, "KiB": 1024, "MiB": 1024**2}
    return round(float(match[1]) * units[match[2] or "B"])


def folder_name(text: Any) -> str:
    """A study's name, which names a folder too."""

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(text)):
        raise ValueError("use letters, digits, '.', '_' and '-' (it names a folder)")
    return str(text)


def as_typed(value: str) -> str:
    """What was typed, as one goes on typing it, in one line, cut where it is long."""
    short = value if len(value) <= 60 else f"{value[:57]}..."
    return shlex.quote(short) if short.isprintable() else repr(short)


def parsed(setting: dataclasses.Field[Any], value: Any, typed: str) -> Any:
    """``value`` through the setting's parser, or a UserError that begins with what was ``typed`` and says what is allowed."""
    try:
        return setting.metadata["parse"](value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{typed}: {error}") from error


def metric_typed(text: str) -> str | None:
    """``--metric`` of a command without the other settings.

    Raises:
        UserError: it is no metric's name.
    """
    try:
        return metric_name(text)
    except ValueError as error:
        raise UserError(f"--metric {as_typed(text)}: {error}") from error
