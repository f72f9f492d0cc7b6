"""The last lines of a search: which candidate to take, and what to open and type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.command import shell
from pipeline.review.recommendation import in_words, recommend
from pipeline.study.settings import Settings


def how_to_evaluate(candidate: Path, devices: str | None = None, modules: Path | None = None) -> str:
    """What to type, in whatever folder, to evaluate the ARM program of a candidate's folder."""
    kind = ("--devices", devices) if devices else ()
    place = ("--modules", modules) if modules else ()
    return shell("pipeline.evaluate", candidate, "--on", "arm", *kind, *place)


def next_steps(
    settings: Settings,
    front: Mapping[str, Any],
    mlflow: str | None,
    *,
    complete: bool,
    others: Sequence[str] = (),
    unsent: str | None = None,
) -> str:
    """The recommendation of a front and the commands for it, to be pasted into a shell of any folder.

    Args:
        mlflow: what a person opens or types to see the runs.
        others: studies of the same output folder to compare with.
        unsent: why MLflow does not have everything, where it has not.
    """
    name, out = settings.study_name, settings.out
    found = recommend(front, settings.max_accuracy_drop)
    flags = [word for flag, _ in found.flags for word in flag.split()]
    place = next(
        (settings.folder / p["candidate"] for p in front["points"] if found.hash in (p["hash"], None)), None
    )
    lines = [f"best     {found.hash or 'none'}: {found.why}"]
    if (words := in_words(front, found.hash)) is not None:
        lines.append(f"         {words}")
    if place is not None:
        lines.append(f"evaluate {how_to_evaluate(place, settings.devices, settings.modules)}")
        modules = ("--modules", settings.modules) if settings.modules else ()
        file = settings.folder / f"{place.name}.safetensors"
        lines.append(f"export   {shell('pipeline.export', place, '--out', file, *modules)}")
    lines += [
        f"report   {settings.folder / 'report.html'}",
        *(
            [f"compare  {shell('pipeline.studies', 'compare', name, *others, '--out', out)}"]
            if others
            else []
        ),
        f"front    {settings.folder / 'front.json'}",
        *([f"promote  {shell('pipeline.promote', name, '--out', out, *flags)}"] if front["points"] else []),
        *(f"         {flag}: {why}" for flag, why in found.flags),
        *([f"MLflow   {mlflow}"] if mlflow else []),
    ]
    if unsent is not None:
        lines += [
            f"MLflow lacks what ended last ({unsent}); the study has it all",
            f"send     {shell('pipeline.studies', 'send', name, '--out', out)}",
        ]
    if not complete:
        resume = shell("pipeline.search", "--name", name, "--out", out)
        lines.insert(0, f"not complete; nothing that finished is lost\nresume   {resume}")
    return "\n".join(lines)
