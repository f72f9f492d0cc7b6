"""The settings of a search: one dataclass; a YAML file gives defaults, flags win, the resolved settings are saved.

Relative paths in a YAML file are relative to its folder, those of a flag to the current one; see ``pipeline.study.paths``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deploy_arm.devices.kinds import DEVICES
from foundation.errors import UserError
from foundation.factories import is_factory
from foundation.plan import BITS
from pipeline.datasets.normalization import channel_deviations, channel_means
from pipeline.study import paths
from pipeline.study.records import OBJECTIVES
from pipeline.study.yaml_file import read_mapping
from pipeline.training.settings import ACCURACY, AP50, TrainSettings
from pipeline.training.stages import Stage, stages
from quantizers import QUANTIZERS
from search_spaces.samplers.base import SAMPLERS

DETECTORS_RATE = 0.001  # peak learning rate; with that of classifiers a rebuilt detector moves away from fp32
RUNG_IMAGES = (
    1000  # of the search half, on which rungs are compared; a candidate's own figures are from all of it
)


def _text(text: Any) -> str:
    """Text as it is; YAML takes words like ``no`` and ``2026-11-27`` for something else."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("give text, in quotes where it is a word like no, on or a date")
    if not str(text).strip():
        raise ValueError("is empty; give one, or leave it out")
    return str(text)


def _metric(text: Any) -> str | None:
    """``package.module:function``, or ``AP50`` of detectors; None of ``accuracy``, which is what is usual."""
    if text not in (ACCURACY, AP50) and not is_factory(_text(text)):
        raise ValueError(f"give package.module:function, or {ACCURACY}")
    return None if text == ACCURACY else str(text)


def _path(text: Any) -> Path:
    return text if isinstance(text, Path) else Path(_text(text))


def _integers(text: Any) -> tuple[int, ...]:
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    values = {str(part).strip() for part in parts}
    if not values or values - set(map(str, BITS)):
        raise ValueError(f"allowed are {','.join(map(str, BITS))}, separated by commas")
    return tuple(sorted(map(int, values)))


def _dimensions(text: Any) -> tuple[str, ...]:
    parts = text if isinstance(text, (list, tuple)) else str(text).split()
    if not all(isinstance(part, str) and part.strip("=") and not part.startswith("=") for part in parts):
        raise ValueError("give NAME or NAME=VALUE,VALUE, separated by spaces")
    return tuple(parts)


def _objectives(text: Any) -> tuple[str, ...]:
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


def _switch(text: Any) -> str:
    """``on`` or ``off``, which YAML reads as truth values."""
    said = ("off", "on")[text] if isinstance(text, bool) else _text(text)
    if said not in ("on", "off"):
        raise ValueError("give on or off")
    return said


def _at_least(kind: type, low: float, *, exclusive: bool = False) -> Callable[[Any], Any]:
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


def metric_typed(text: str) -> str | None:
    """``--metric`` of a command without the other settings.

    Raises:
        UserError: it is no metric's name.
    """
    try:
        return _metric(text)
    except ValueError as error:
        raise UserError(f"--metric {as_typed(text)}: {error}") from error


def byte_count(text: Any) -> int:
    """Bytes of ``70000``, ``64KiB``, ``1.5MiB`` or ``200kB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|KiB|MiB)?", str(text).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError("give a size like 70000, 64KiB or 1.5MiB")
    units = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1_000_000, "KiB": 1024, "MiB": 1024**2}
    return round(float(match[1]) * units[match[2] or "B"])


def _name(text: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(text)):
        raise ValueError("use letters, digits, '.', '_' and '-' (it names a folder)")
    return str(text)


def named_folder(text: str) -> Path:
    """The folder of a study that is named by a path.

    Raises:
        UserError: its last part cannot name a study.
    """
    folder = paths.absolute(text)
    try:
        _name(folder.name)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error
    return folder


def _setting(default: Any, parse: Callable[[Any], Any], help: str, group: str, metavar: str = "") -> Any:
    return field(default=default, metadata={"parse": parse, "help": help, "group": group, "metavar": metavar})


@dataclass(frozen=True)
class Settings:
    """Everything a search depends on. ``None`` means: chosen from the model, the data or the machine."""

    model: str = _setting("vgg_tiny", _text, "network: a name, or package.module:factory", "what", "NAME")
    data: str = _setting(
        "digits",
        _text,
        "digits, cifar10:DIR, imagefolder:DIR, npz:FILE or package.module:factory",
        "what",
        "DATA",
    )
    weights: str | None = _setting(
        None, _text, "trained weights: a file or a torchvision weights name; without, the network is trained first",
        "what", "FILE",
    )  # fmt: skip
    metric: str | None = _setting(
        None,
        _metric,
        "what is to be kept instead of accuracy: package.module:function of outputs and labels, which gives scores in 0..1",
        "what",
        "package.module:function",
    )
    modules: Path | None = _setting(
        None, _path, "folder that package.module:name is looked up in (default the current one)", "what", "DIR"
    )  # fmt: skip
    image_size: int | None = _setting(
        None, _at_least(int, 8), "side of the input images in pixels", "what", "PIXELS"
    )
    mean: tuple[float, float, float] | None = _setting(
        None,
        channel_means,
        "means of the channels that the network's input is normalized with, pixels in 0..1",
        "what",
        "R,G,B",
    )
    std: tuple[float, float, float] | None = _setting(
        None,
        channel_deviations,
        "standard deviations, likewise; without, what the network declares",
        "what",
        "R,G,B",
    )
    budget: int = _setting(12, _at_least(int, 1), "trials to run", "search", "TRIALS")
    time_budget: float | None = _setting(
        None, duration, "stop proposing after this long, like 45m or 2h", "search", "TIME"
    )
    name: str | None = _setting(
        None,
        _name,
        "study name, or a path to its folder; an existing one is resumed with its own settings",
        "search",
        "NAME",
    )
    objectives: tuple[str, ...] = _setting(OBJECTIVES, _objectives, "what the front trades", "search", "LIST")
    max_accuracy_drop: float | None = _setting(
        None,
        _at_least(float, 0),
        "points of accuracy a candidate on the front may lose against fp32",
        "search",
        "POINTS",
    )
    max_latency: float | None = _setting(
        None,
        _at_least(float, 0, exclusive=True),
        "milliseconds that a candidate on the front may take",
        "search",
        "MS",
    )
    max_size: int | None = _setting(
        None, byte_count, "bytes that a candidate on the front may have, like 64KiB", "search", "SIZE"
    )
    sampler: str = _setting(
        "programme",
        _text,
        f"what proposes plans: {', '.join(SAMPLERS)} or package.module:Name",
        "search",
        "NAME",
    )
    like: Path | None = _setting(
        None,
        _path,
        "earlier study of this network or a similar one, its name or a path to its folder: begin with what it learned",
        "search",
        "STUDY",
    )
    quantizer: str = _setting(
        "gaussian_mixture",
        _text,
        f"what stores weights below 8 bits: {', '.join(QUANTIZERS)} or package.module:Name",
        "search",
        "NAME",
    )
    bits: tuple[int, ...] = _setting(BITS, _integers, "bit-widths to choose from", "search", "LIST")
    dimensions: tuple[str, ...] = _setting(
        (),
        _dimensions,
        "further dimensions to search, or other values of one: NAME or NAME=VALUE,VALUE,..., NAME also package.module:Name",
        "search",
        "NAME",
    )
    seed: int = _setting(0, _at_least(int, 0), "seed of the sampler and of training", "search", "N")
    epochs_per_trial: float = _setting(
        2.0,
        _at_least(float, 0, exclusive=True),
        "epochs of co-tuning a trial gets at most, once its layers are rebuilt; fractions are fine",
        "training",
        "E",
    )
    rungs: int = _setting(
        3,
        _at_least(int, 1),
        "points at which a trial is looked at, and with --halving on compared with others: the end, the network with held "
        "levels, the rebuilt network, that from fewer images, and any more within the co-tuning",
        "training",
        "N",
    )
    halving: str = _setting(
        "off",
        _switch,
        "on: stop trials that fall behind others at a rung; it saves time where trials are long and many, and may cost some of "
        "the front",
        "training",
        "on|off",
    )
    batch_size: int = _setting(128, _at_least(int, 2), "images in a batch", "training", "N")
    learning_rate: float | None = _setting(
        None, _at_least(float, 0, exclusive=True), "peak learning rate of the weights", "training", "LR"
    )
    workers_per_trial: int = _setting(
        1, _at_least(int, 1), "workers that train one trial together", "cluster", "N"
    )
    gpus_per_trial: float = _setting(0.0, _at_least(float, 0), "GPUs of one trial", "cluster", "N")
    max_concurrent: int | None = _setting(None, _at_least(int, 1), "trials at a time", "cluster", "N")
    target: str = _setting(
        "a76",
        _text,
        "ARM CPU class programs are compiled for and profiled as; modelled times of a72 are approximate, of a55 "
        "and a53 for ranking only",
        "devices",
        "CPU",
    )
    devices: str | None = _setting(
        None,
        _text,
        f"kind of device that programs run on: {', '.join(DEVICES)} or package.module:Name; without, the ARM nodes of the "
        "cluster, or this machine's own ARM CPU, or else an emulated one",
        "devices",
        "KIND",
    )
    out: Path = _setting(Path("runs"), _path, "folder that holds one folder per study", "results", "DIR")
    storage: str | None = _setting(
        None,
        _text,
        "folder or URL (s3://BUCKET/FOLDER) that every node reaches: keeps checkpoints and candidates, and a copy of the study",
        "results",
        "PLACE",
    )
    tracking_uri: str | None = _setting(
        None, _text, "MLflow server; without, an sqlite store in the output folder", "results", "URI"
    )

    @property
    def study_name(self) -> str:
        if self.name is None:
            raise ValueError("the name is given or made before the study is opened")
        return self.name

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.out / self.study_name

    @property
    def like_folder(self) -> Path | None:
        """The folder of the study that ``like`` names, by its path or as in ``out``; None where none is named, or this one has
        taken up what it learned and it is gone.

        Raises:
            UserError: there is none.
        """
        if self.like is None:
            return None
        for folder in (self.like, self.out / self.like.name):
            if folder.is_dir():
                return folder
        if self.name is not None and (self.folder / paths.LIKE).is_file():
            return None
        raise UserError(
            f"--like {self.like}: there is no such folder, nor a study {self.like.name!r} in {self.out}"
        )

    @property
    def concurrency(self) -> int:
        """Trials at a time: as asked, or one per core and worker."""
        return self.max_concurrent or max(1, (os.cpu_count() or 1) // self.workers_per_trial)

    def named(self) -> Settings:
        """The same with a fresh name where none was given."""
        if self.name is not None:
            return self
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model).strip("-.") or "study"
        return dataclasses.replace(self, name=f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of each trial."""
        return stages(self.epochs_per_trial, self.rungs)

    def training(self) -> TrainSettings:
        """How each trial is trained."""
        chosen = TrainSettings(
            epochs=self.epochs_per_trial,
            batch_size=self.batch_size,
            seed=self.seed,
            rung_images=RUNG_IMAGES,
        )
        if self.metric == AP50:
            chosen = dataclasses.replace(
                chosen, learning_rate=DETECTORS_RATE, held_rate=DETECTORS_RATE / 2, calibration_images=32
            )  # their images are large: so many have as many pixels as thousands of classifiers'
        if self.learning_rate is None:
            return chosen
        return dataclasses.replace(chosen, learning_rate=self.learning_rate)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them."""
        record = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for key, value in record.items()
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any], where: str = "the settings") -> Settings:
        """Settings of plain values.

        Raises:
            UserError: an unknown key or a value out of range.
        """
        return cls(**values_of(record, where))


def values_of(record: dict[str, Any], where: str) -> dict[str, Any]:
    """The parsed values of some settings that stand in a file, ``where``.

    Raises:
        UserError: an unknown key or a value out of range; the message names both.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in record.items():
        key = str(key).replace("-", "_")
        if key not in fields:
            close = get_close_matches(key, fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(
                f"{where}: unknown setting {key}: {value!r}{hint} Allowed: {', '.join(sorted(fields))}"
            )
        if value is None and fields[key].default is not None:
            raise UserError(f"{where}: {key}: has no value; give one, or leave the line out")
        values[key] = None if value is None else parsed(fields[key], value, f"{where}: {key}: {value!r}")
    return values


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


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file of settings, its paths absolute: relative ones are relative to the file's folder, and in the
    ``settings.yaml`` of a study to where the search was started.

    Raises:
        UserError: it cannot be read, or holds no mapping.
    """
    path = paths.absolute(path)
    record = read_mapping(path)
    record = {str(key).replace("-", "_"): value for key, value in record.items()}
    of_a_study = path.name == paths.SETTINGS and record.get("name") == path.parent.name
    return paths.settled(record, paths.typed_in(path.parent) if of_a_study else path.parent)


def parse(argv: Sequence[str] | None, parser: argparse.ArgumentParser) -> tuple[Settings, argparse.Namespace]:
    """Add one flag per setting to ``parser``, read ``argv``, return the settings and the command's own flags.

    Flags win over the file given as ``--config``, and that over the settings of an existing study of the same name.
    """
    groups: dict[str, Any] = {}
    for setting in dataclasses.fields(Settings):
        meta = setting.metadata
        group = groups.setdefault(meta["group"], None) or parser.add_argument_group(meta["group"])
        groups[meta["group"]] = group
        default = setting.default
        shown = (
            ""
            if default in (None, ())
            else f" (default {','.join(map(str, default)) if isinstance(default, tuple) else default})"
        )
        group.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=setting.name, default=argparse.SUPPRESS, metavar=meta["metavar"], help=meta["help"] + shown,
            nargs="+" if default == () else None,
        )  # fmt: skip
    parser.add_argument(
        "--config",
        type=paths.absolute,
        metavar="FILE.yaml",
        help="defaults for these flags; flags win; relative paths in it are relative to its folder",
    )
    namespace = parser.parse_args(argv)
    names = {setting.name: setting for setting in dataclasses.fields(Settings)}
    named = getattr(namespace, "name", "")
    if "/" in named and (paths.absolute(named) / paths.SETTINGS).is_file():  # a study, wherever it lies
        if "out" in namespace:
            raise UserError(
                f"--name {as_typed(namespace.name)} says where the study lies; leave --out {as_typed(namespace.out)} out"
            )
        folder = named_folder(namespace.name)
        namespace.name, namespace.out = folder.name, str(folder.parent)
    typed = {key: value for key, value in vars(namespace).items() if key in names}
    given = paths.settled(
        {
            key: parsed(
                names[key],
                value,
                f"--{key.replace('_', '-')} {as_typed(value if isinstance(value, str) else ' '.join(value))}",
            )
            for key, value in typed.items()
        }
    )
    known = values_of(read_config(namespace.config), str(namespace.config)) if namespace.config else {}
    chosen = {"out": paths.absolute(Settings.out), **known, **given}
    return Settings(**{**of_study(chosen["out"], chosen.get("name")), **chosen}), namespace


def of_study(out: Path, name: str | None) -> dict[str, Any]:
    """The settings that a study was started with, where there is one of that name: to go on with it, the name is enough."""
    file = out / name / paths.SETTINGS if name else None
    if file is None or not file.is_file():
        return {}
    return values_of(read_config(file), str(file))
