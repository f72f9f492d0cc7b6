"""What a sweep file asks for: its searches, each with its settings and the fixed name of its study.

    name: nightly
    defaults:
      data: npz:cifar10.npz
      budget: 40
    searches:
      - {model: resnet20, weights: resnet20.th}
      - model: mobilenet_v2_cifar
        weights: mobilenet.pt
        matrix:
          seed: [0, 1]
          target: [a76, x2]

The keys of a search are the flags of ``pipeline.search``; the lists of a ``matrix`` multiply. Relative paths are relative to
the file's folder, and so is ``out``, which is ``runs`` beside the file unless it is given. A study's name is the search's
``name``, else that of the sweep and the model, and then what of the matrix was chosen: the same in every run, whatever the order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import json_text
from foundation.show import counted
from pipeline.study import paths
from pipeline.study.settings import Settings, values_of
from pipeline.study.values import parsed
from pipeline.study.yaml_file import read_mapping

KEYS = ("name", "defaults", "searches")
MATRIX, ALLOW = "matrix", "allow_bad_fp32"  # keys of a search that are no settings
MOST = 1000  # searches of a sweep
FOLDER = "sweeps"  # in the output folder


@dataclass(frozen=True)
class Asked:
    """One search: its settings, named and with absolute paths, which of them the file gives, whether a bad fp32 is searched."""

    settings: Settings
    given: tuple[str, ...]
    allow_bad_fp32: bool = False

    @property
    def study(self) -> str:
        return self.settings.study_name

    @property
    def digest(self) -> str:
        """What tells whether a search that was complete is the one that is asked for now."""
        return hashlib.sha256(json_text(self.settings.as_dict(), sort_keys=True).encode()).hexdigest()

    def config(self) -> dict[str, Any]:
        """What ``pipeline.search --config`` takes."""
        record = self.settings.as_dict()
        return {name.replace("_", "-"): record[name] for name in ("name", "out", *self.given)}

    def flags(self) -> list[str]:
        """The same as flags."""
        words = []
        for name, value in self.config().items():
            if name == "dimensions":
                words += [f"--{name}", *value] if value else []
            else:
                words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        return words + (["--allow-bad-fp32"] if self.allow_bad_fp32 else [])


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was read; ``folder`` keeps what a sweep knows of itself."""

    name: str
    file: Path
    folder: Path
    searches: tuple[Asked, ...]


def read_sweep(path: Path) -> Sweep:
    """The searches of a file.

    Raises:
        UserError: it cannot be read, or asks for what cannot be; the text has every problem of the file.
    """
    file = paths.absolute(path)
    record = read_mapping(file, "sweep")
    problems = [_unknown(str(key), KEYS) for key in record if key not in KEYS]
    name = _kept(problems, "name", lambda: parsed(_field("name"), record.get("name", file.stem), "name"))
    defaults, searches = record.get("defaults") or {}, record.get("searches")
    if not isinstance(defaults, dict):
        problems.append(f"defaults: must hold `setting: value` lines, not a {type(defaults).__name__}")
        defaults = {}
    if not isinstance(searches, list) or not searches:
        problems.append("searches: give a list of at least one search, each with `setting: value` lines")
        searches = []
    found: list[Asked] = []
    for number, search in enumerate(searches, start=1):
        where = f"search {number}"
        if not isinstance(search, dict):
            problems.append(f"{where}: must hold `setting: value` lines, not a {type(search).__name__}")
            continue
        whole = {_plain(key): value for part in (defaults, search) for key, value in part.items()}
        for chosen in _multiplied(whole, where, problems):
            if len(found) == MOST:
                raise UserError(f"{file}: more than {MOST} searches; make it several sweeps")
            asked = _asked(whole, chosen, name or "sweep", file.parent, where, problems)
            found += [asked] if asked else []
    problems += _named_twice(found)
    if problems:
        told = "; ".join(dict.fromkeys(problems))
        raise UserError(f"{file}: {counted(len(set(problems)), 'problem')}, so nothing is started: {told}")
    out = _kept(problems, "defaults", lambda: values_of({"out": defaults.get("out", "runs")}, "defaults"))
    place = paths.absolute((out or {})["out"], file.parent)
    return Sweep(str(name), file, place / FOLDER / str(name), tuple(found))


def _plain(key: Any) -> str:
    return str(key).replace("-", "_")


def _field(name: str) -> dataclasses.Field[Any]:
    return next(field for field in dataclasses.fields(Settings) if field.name == name)


def _kept(problems: list[str], where: str, get: Any) -> Any:
    """What ``get`` gives; its refusal joins the problems."""
    try:
        return get()
    except UserError as error:
        text = str(error)
        problems.append(text if text.startswith(where) else f"{where}: {text}")
        return None


def _unknown(key: str, allowed: tuple[str, ...]) -> str:
    close = get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    if _plain(key) in {field.name for field in dataclasses.fields(Settings)} | {MATRIX}:
        hint = "; it belongs under defaults, or in a search"
    return f"unknown key {key}{hint} Allowed: {', '.join(allowed)}"


def _multiplied(search: Mapping[str, Any], where: str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Each choice from the lists of a search's matrix; one that is empty without."""
    matrix = search.get(MATRIX)
    if matrix is None:
        yield {}
        return
    if not isinstance(matrix, dict) or not all(isinstance(v, list) and v for v in matrix.values()):
        problems.append(f"{where}: matrix: give `setting: [value, value, ...]` lines")
        return
    lists = {_plain(key): values for key, values in matrix.items()}
    if "name" in lists or "out" in lists:
        problems.append(
            f"{where}: matrix: name and out are not multiplied; each study gets a name of its own"
        )
        return
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values))


def _asked(
    search: Mapping[str, Any],
    chosen: Mapping[str, Any],
    sweep: str,
    folder: Path,
    where: str,
    problems: list[str],
) -> Asked | None:
    """One search; None where a value is refused, which joins the problems."""
    record = {**{key: value for key, value in search.items() if key not in (MATRIX, ALLOW)}, **chosen}
    allow = search.get(ALLOW, False)
    before = len(problems)
    if not isinstance(allow, bool):
        problems.append(f"{where}: allow-bad-fp32: {allow!r}: give true or false")
    values: dict[str, Any] = {}
    for key, value in record.items():
        values |= _kept(problems, where, lambda one={key: value}: values_of(one, where)) or {}
    if len(problems) > before:
        return None
    model = values.get("model", Settings.model)
    parts = [record.get("name") or f"{sweep}-{_word(model) or 'study'}"]
    parts += [f"{key.replace('_', '-')}-{_word(value)}" for key, value in chosen.items() if key != "model"]
    if record.get("name") and "model" in chosen:
        parts.insert(1, _word(model))
    name = _kept(problems, where, lambda: parsed(_field("name"), "-".join(parts), f"name: {'-'.join(parts)}"))
    settled = _kept(problems, where, lambda: paths.settled({"out": "runs", **values}, folder))
    if name is None or settled is None:
        return None
    if "@" in re.sub(r"^[^/]*//", "", str(values.get("tracking_uri") or "")).split("/")[0]:
        problems.append(
            f"{where}: tracking-uri: a password does not belong in a file; give it as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment"
        )
        return None
    given = tuple(key for key, value in settled.items() if key not in ("name", "out") and value is not None)
    return Asked(Settings(**{**settled, "name": name}), given, allow)


def _word(value: Any) -> str:
    """A value as a part of a name; of a path only its last part."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(_word, value))
    text = Path(value).stem if isinstance(value, str) and "/" in value else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def _named_twice(found: list[Asked]) -> Iterator[str]:
    places: dict[Path, int] = {}
    for asked in found:
        places[asked.settings.folder] = places.get(asked.settings.folder, 0) + 1
    for place, count in places.items():
        if count > 1:
            yield f"{count} searches would be the one study {place.name}; give each a `name` of its own"
