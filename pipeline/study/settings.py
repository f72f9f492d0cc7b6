"""The settings of a search: one dataclass, with what is told of each and how it is read. How they are given, in flags and YAML
files, is ``pipeline.study.command_line``'s.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deploy_arm.devices.kinds import DEVICES
from foundation.errors import UserError
from foundation.plan import BITS
from pipeline.datasets.normalization import channel_deviations, channel_means
from pipeline.study import paths
from pipeline.study.records import OBJECTIVES
from pipeline.study.values import (
    at_least,
    bit_widths,
    byte_count,
    dimension_words,
    duration,
    file_path,
    folder_name,
    metric_name,
    objective_names,
    on_or_off,
    parsed,
    plain_text,
)
from pipeline.training.settings import AP50, TrainSettings, of_detectors
from pipeline.training.stages import Stage, stages
from quantizers import QUANTIZERS
from search_spaces.samplers.base import SAMPLERS

RUNG_IMAGES = (
    1000  # of the search half, on which rungs are compared; a candidate's own figures are from all of it
)


def named_folder(text: str) -> Path:
    """The folder of a study that is named by a path.

    Raises:
        UserError: its last part cannot name a study.
    """
    folder = paths.absolute(text)
    try:
        folder_name(folder.name)
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error
    return folder


def _setting(default: Any, parse: Callable[[Any], Any], help: str, group: str, metavar: str = "") -> Any:
    return field(default=default, metadata={"parse": parse, "help": help, "group": group, "metavar": metavar})


@dataclass(frozen=True)
class Settings:
    """Everything a search depends on. ``None`` means: chosen from the model, the data or the machine."""

    model: str = _setting(
        "vgg_tiny", plain_text, "network: a name, or package.module:factory", "what", "NAME"
    )
    data: str = _setting(
        "digits",
        plain_text,
        "digits, cifar10:DIR, imagefolder:DIR, npz:FILE or package.module:factory",
        "what",
        "DATA",
    )
    weights: str | None = _setting(
        None, plain_text, "trained weights: a file or a torchvision weights name; without, the network is trained first",
        "what", "FILE",
    )  # fmt: skip
    metric: str | None = _setting(
        None,
        metric_name,
        "what is to be kept instead of accuracy: package.module:function of outputs and labels, which gives scores in 0..1",
        "what",
        "package.module:function",
    )
    modules: Path | None = _setting(
        None, file_path, "folder that package.module:name is looked up in (default the current one)", "what", "DIR"
    )  # fmt: skip
    image_size: int | None = _setting(
        None, at_least(int, 8), "side of the input images in pixels", "what", "PIXELS"
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
    budget: int = _setting(12, at_least(int, 1), "trials to run", "search", "TRIALS")
    time_budget: float | None = _setting(
        None, duration, "stop proposing after this long, like 45m or 2h", "search", "TIME"
    )
    name: str | None = _setting(
        None,
        folder_name,
        "study name, or a path to its folder; an existing one is resumed with its own settings",
        "search",
        "NAME",
    )
    objectives: tuple[str, ...] = _setting(
        OBJECTIVES, objective_names, "what the front trades", "search", "LIST"
    )
    max_accuracy_drop: float | None = _setting(
        None,
        at_least(float, 0),
        "points of accuracy a candidate on the front may lose against fp32",
        "search",
        "POINTS",
    )
    max_latency: float | None = _setting(
        None,
        at_least(float, 0, exclusive=True),
        "milliseconds that a candidate on the front may take",
        "search",
        "MS",
    )
    max_size: int | None = _setting(
        None, byte_count, "bytes that a candidate on the front may have, like 64KiB", "search", "SIZE"
    )
    sampler: str = _setting(
        "programme",
        plain_text,
        f"what proposes plans: {', '.join(SAMPLERS)} or package.module:Name",
        "search",
        "NAME",
    )
    like: Path | None = _setting(
        None,
        file_path,
        "earlier study of this network or a similar one, its name or a path to its folder: begin with what it learned",
        "search",
        "STUDY",
    )
    quantizer: str = _setting(
        "gaussian_mixture",
        plain_text,
        f"what stores weights below 8 bits: {', '.join(QUANTIZERS)} or package.module:Name",
        "search",
        "NAME",
    )
    bits: tuple[int, ...] = _setting(BITS, bit_widths, "bit-widths to choose from", "search", "LIST")
    dimensions: tuple[str, ...] = _setting(
        (),
        dimension_words,
        "further dimensions to search, or other values of one: NAME or NAME=VALUE,VALUE,..., NAME also package.module:Name",
        "search",
        "NAME",
    )
    seed: int = _setting(0, at_least(int, 0), "seed of the sampler and of training", "search", "N")
    epochs_per_trial: float = _setting(
        2.0,
        at_least(float, 0, exclusive=True),
        "epochs of co-tuning a trial gets at most, once its layers are rebuilt; fractions are fine",
        "training",
        "E",
    )
    rungs: int = _setting(
        3,
        at_least(int, 1),
        "points at which a trial is looked at, and with --halving on compared with others: the end, the network with held "
        "levels, the rebuilt network, that from fewer images, and any more within the co-tuning",
        "training",
        "N",
    )
    halving: str = _setting(
        "off",
        on_or_off,
        "on: stop trials that fall behind others at a rung; it saves time where trials are long and many, and may cost some of "
        "the front",
        "training",
        "on|off",
    )
    inherit_weights: str = _setting(
        "off",
        on_or_off,
        "on: a trial may start from the trained weights of the one that it is a neighbour of, which its sampler names "
        "(metropolis does); candidates keep latent.pt for it, four bytes a weight",
        "training",
        "on|off",
    )
    batch_size: int = _setting(128, at_least(int, 2), "images in a batch", "training", "N")
    learning_rate: float | None = _setting(
        None, at_least(float, 0, exclusive=True), "peak learning rate of the weights", "training", "LR"
    )
    workers_per_trial: int = _setting(
        1, at_least(int, 1), "workers that train one trial together", "cluster", "N"
    )
    gpus_per_trial: float = _setting(0.0, at_least(float, 0), "GPUs of one trial", "cluster", "N")
    max_concurrent: int | None = _setting(None, at_least(int, 1), "trials at a time", "cluster", "N")
    target: str = _setting(
        "a76",
        plain_text,
        "ARM CPU class programs are compiled for and profiled as; modelled times of a72 are approximate, of a55 "
        "and a53 for ranking only",
        "devices",
        "CPU",
    )
    devices: str | None = _setting(
        None,
        plain_text,
        f"kind of device that programs run on: {', '.join(DEVICES)} or package.module:Name; without, the ARM nodes of the "
        "cluster, or this machine's own ARM CPU, or else an emulated one",
        "devices",
        "KIND",
    )
    out: Path = _setting(Path("runs"), file_path, "folder that holds one folder per study", "results", "DIR")
    storage: str | None = _setting(
        None,
        plain_text,
        "folder or URL (s3://BUCKET/FOLDER) that every node reaches: keeps checkpoints and candidates, and a copy of the study",
        "results",
        "PLACE",
    )
    tracking_uri: str | None = _setting(
        None, plain_text, "MLflow server; without, an sqlite store in the output folder", "results", "URI"
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
    def inherits(self) -> bool:
        """Whether trials may start from others' weights."""
        return self.inherit_weights == "on"

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
            chosen = of_detectors(chosen)
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
