"""The candidate folder: everything one compressed network consists of, able to stand alone."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.files import folder_atomically, json_text, sha256
from foundation.foreign_files import is_file
from foundation.plan import Plan
from pipeline.study.records import Figures, Reference

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from quantizers.network import Hardened

FORMAT = 1
FILES = ("plan.json", "network.pt", "program", "weights.blob", "layers.json")


@dataclass(frozen=True)
class Candidate:
    """A candidate folder that has been read; ``manifest`` is its ``manifest.json``."""

    folder: Path
    manifest: dict[str, Any]

    @cached_property
    def plan(self) -> Plan:
        return Plan.from_json((self.folder / "plan.json").read_text())

    @property
    def program(self) -> Path:
        """Built for the candidate's target where the folder has none."""
        if "program" in self.manifest["files"]:
            return self.folder / "program"
        from deploy_arm.runtime.program import build_program

        return build_program(self.manifest["target"])

    @property
    def blob(self) -> Path:
        return self.folder / "weights.blob"

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.manifest["image_size"]
        return height, width

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self.manifest["normalization"]["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self.manifest["normalization"]["std"])

    def hardened(self) -> Hardened:
        """The PyTorch network with its final weights and frozen activation steps, in evaluation mode."""
        import torch

        from pipeline.networks.registry import load_model
        from quantizers.network import load_hard

        model = load_model(
            self.manifest["model"], classes=len(self.manifest["classes"]), image_size=self.image_size
        )
        state = torch.load(self.folder / "network.pt", map_location="cpu", weights_only=True)
        return load_hard(model, self.plan, state)

    def verify(self) -> None:
        """Compare every file with the manifest's checksum.

        Raises:
            UserError: a file is missing or differs.
        """
        for name, digest in self.manifest["files"].items():
            path = self.folder / name
            if not is_file(path):
                raise UserError(f"{path} is missing; take the candidate folder from the study again")
            if sha256(path) != digest:
                raise UserError(f"{path} is not the file its manifest names (checksum differs); restore it")


def write_candidate(
    folder: Path,
    *,
    plan: Plan,
    hardened: Hardened,
    program: Path | None,
    blob: bytes,
    model: str,
    target: str,
    classes: Sequence[str],
    image_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    data: dict[str, Any],
    figures: Figures,
    profile: Profile | None,
    details: str = "{}",
    references: Sequence[Reference] = (),
    notes: dict[str, Any] | None = None,
) -> None:
    """Write the folder in one move; an existing one is replaced whole.

    Args:
        program: None leaves it out: it is the same for all networks of a target, and can be built anew.
        target: the ARM CPU class the program is compiled for.
        data: what says which images were which: the data set's specification and its split manifest.
        figures: the objectives, of the trained network.
        profile: the program's profile, layer by layer; None where it was not profiled.
        details: what was learned and packed by layer (``pipeline.candidate.details``), JSON text.
        notes: where the network comes from, when not from a study.
    """
    import torch

    from quantizers.network import hard_state

    with folder_atomically(folder) as new:
        (new / "plan.json").write_text(plan.to_json() + "\n")
        (new / "layers.json").write_text(details)
        state = io.BytesIO()
        torch.save(hard_state(hardened), state)
        (new / "network.pt").write_bytes(state.getvalue())
        if program is not None:
            shutil.copyfile(program, new / "program")
            os.chmod(new / "program", 0o755)
        (new / "weights.blob").write_bytes(blob)
        manifest = {
            "format": FORMAT,
            "hash": plan.hash,
            "model": model,
            "target": target,
            "data": data,
            "classes": list(classes),
            "image_size": list(image_size),
            "normalization": {"mean": list(mean), "std": list(std)},
            "files": {name: sha256(new / name) for name in FILES if (new / name).exists()},
            "figures": sourced(figures),
            "references": {reference.name: sourced(reference.figures) for reference in references},
            "profile": None if profile is None else dataclasses.asdict(profile),
            **({} if notes is None else {"notes": notes}),
        }
        (new / "manifest.json").write_text(json_text(manifest, indent=1) + "\n")


def sourced(figures: Figures) -> dict[str, Any]:
    """Every figure with where it comes from."""
    latency = {"source": figures.source, "device": figures.device, "unit": "ms"}
    return {
        "error": {
            "value": figures.error,
            "source": "hard weights in PyTorch, search half of the validation images",
        },
        "latency": {
            "value": figures.latency_ms,
            "low": figures.latency_low_ms,
            "high": figures.latency_high_ms,
            **latency,
        },
        "size": {"value": figures.size_bytes, "source": "length of weights.blob", "unit": "bytes"},
        "peak_memory": {"value": figures.peak_memory_bytes, "source": figures.source, "unit": "bytes"},
    }


def load_candidate(folder: Path) -> Candidate:
    """Read a candidate folder and verify its checksums.

    Raises:
        UserError: not a candidate folder, of another format, or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; candidates lie in STUDY/candidates/HASH")
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        shown = manifest["format"]
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except Exception as error:  # any bytes may lie there
        raise UserError(
            f"{folder} is not a candidate folder (no readable manifest.json); candidates lie in STUDY/candidates/HASH"
        ) from error
    if shown != FORMAT:
        raise UserError(f"{folder} has manifest format {shown!r}; this version reads format {FORMAT}")
    candidate = Candidate(folder, {**manifest, "files": files})
    candidate.verify()
    return candidate
