"""Settings as they are given: flags win over a YAML file, and that over the settings of an existing study of the same name.

Relative paths in a YAML file are relative to its folder, those of a flag to the current one; see ``pipeline.study.paths``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from pipeline.study import paths
from pipeline.study.settings import Settings, named_folder, values_of
from pipeline.study.values import as_typed, parsed
from pipeline.study.yaml_file import read_mapping


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
