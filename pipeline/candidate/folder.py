"""The candidate folder: everything one compressed network consists of, able to stand alone."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from foundation.files import folder_atomically, json_text, sha256
from foundation.foreign_files import is_file
from foundation.plan import Plan
from pipeline.study.records import Figures, Reference
from pipeline.study.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

    from deploy_arm.devices.base import Profile
    from quantizers.network import Hardened

FORMAT = 1
LATENT = "latent.pt"  # of searches whose trials inherit
TRAINED = ("plan.json", "network.pt", LATENT, "layers.json", "answers.json")
FILES = (*TRAINED, "program", "weights.blob")


def candidate_path(study: Path, plan: Plan) -> Path:
    """The place of a candidate's folder in that of its study."""
    return study / "candidates" / plan.hash


@dataclass(frozen=True)
class CandidateFolder:
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

        return build_program(self.manifest["target"])

    @property
    def blob(self) -> Path:
        return self.folder / "weights.blob"

    @property
    def figures(self) -> Figures:
        """What the manifest says of the trained network."""
        said = self.manifest["figures"]
        latency = said["latency"]
        return Figures(
            said["error"]["value"],
            latency["value"],
            latency["low"],
            latency["high"],
            latency["source"],
            latency["device"],
            said["size"]["value"],
            said["peak_memory"]["value"],
            divergence=said.get("divergence", {}).get("value"),
            divergence_standard_error=said.get("divergence", {}).get("standard_error"),
            error_standard_error=said["error"].get("standard_error"),
        )

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


@dataclass(frozen=True)
class Origin:
    """What the manifests of all candidates of one search say alike: which network on which data for which CPU.

    Attributes:
        target: the ARM CPU class the program is compiled for.
        image_size: (height, width).
        mean, std: of the channels, of pixels in 0..1.
        data: what says which images were which: the data set's specification and its split manifest.
        notes: where the network comes from, when not from a study.
        metric: a person's own, ``package.module:function``, by which errors are; None: accuracy.
    """

    model: str
    target: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: Mapping[str, Any]
    notes: Mapping[str, Any] | None = None
    metric: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "model": self.model,
            "target": self.target,
            "data": dict(self.data),
            "classes": list(self.classes),
            "image_size": list(self.image_size),
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
            **({} if self.notes is None else {"notes": dict(self.notes)}),
            **({} if self.metric is None else {"metric": self.metric}),
        }


@dataclass(frozen=True)
class Compiled:
    """A candidate as it is deployed, and what that costs.

    Attributes:
        program: the kernel library's executable; None leaves it out of the folder: it is the same for all networks of a
            target, and can be built anew.
        figures: the objectives, of the trained network.
        profile: layer by layer; None where the program was not profiled.
        references: what its figures are compared with.
        foreseen: cycles that the fitted costs foresaw, by operation and kernel, where there was a choice.
    """

    program: Path | None
    blob: bytes
    figures: Figures
    profile: Profile | None = None
    references: tuple[Reference, ...] = ()
    foreseen: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "figures": sourced(self.figures),
            "references": {reference.name: sourced(reference.figures) for reference in self.references},
            "profile": None if self.profile is None else dataclasses.asdict(self.profile),
            "foreseen": {str(place): dict(costs) for place, costs in self.foreseen.items()},
        }


def write_candidate(
    folder: Path,
    origin: Origin,
    plan: Plan,
    hardened: Hardened,
    compiled: Compiled,
    details: str = "{}",
    answers: str | None = None,
    latent: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the folder in one move; an existing one is replaced whole.

    Args:
        details: what was learned and packed by layer (``pipeline.candidate.details``), JSON text.
        answers: where it answers otherwise than fp32 (``pipeline.candidate.answers``), JSON text.
        latent: the state from which ``hardened`` was made (``pipeline.training.incumbent``), where another may start from it.
    """
    import torch

    from quantizers.network import hard_state

    with folder_atomically(folder) as new:
        (new / "plan.json").write_text(plan.to_json() + "\n")
        (new / "layers.json").write_text(details)
        if answers is not None:
            (new / "answers.json").write_text(answers)
        for name, state in (("network.pt", hard_state(hardened)), (LATENT, latent)):
            if state is not None:
                content = io.BytesIO()
                torch.save(state, content)
                (new / name).write_bytes(content.getvalue())
        _write_compiled(new, {"format": FORMAT, "hash": plan.hash, **origin.as_dict()}, compiled)


def replace_compiled(candidate: CandidateFolder, compiled: Compiled) -> None:
    """Write the folder anew in one move with another program, blob and figures; what was trained stays byte for byte."""
    with folder_atomically(candidate.folder) as new:
        for name in set(TRAINED) & candidate.manifest["files"].keys():
            shutil.copyfile(candidate.folder / name, new / name)
        _write_compiled(new, candidate.manifest, compiled)


def _write_compiled(new: Path, manifest: Mapping[str, Any], compiled: Compiled) -> None:
    if compiled.program is not None:
        shutil.copyfile(compiled.program, new / "program")
        os.chmod(new / "program", 0o755)
    (new / "weights.blob").write_bytes(compiled.blob)
    files = {name: sha256(new / name) for name in FILES if (new / name).exists()}
    content = {**manifest, "files": files, **compiled.as_dict()}
    (new / "manifest.json").write_text(json_text(content, indent=1) + "\n")


def send_candidate(folder: Path, storage: Storage) -> None:
    """Put a candidate's folder into a storage, as one file: it is there whole or not at all."""
    storage.write(stored_name(folder.name), packed(folder))


def packed(folder: Path) -> bytes:
    """A candidate's folder as one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("manifest.json", *FILES):
            if (folder / name).is_file():
                archive.add(folder / name, name)
    return stream.getvalue()


def fetch_candidate(storage: Storage, folder: Path) -> bool:
    """Take a candidate's folder out of a storage, where it is not here yet; whether it is here now.

    Raises:
        DamagedFile: what is kept there is not what was sent.
        UserError: it is no candidate.
        OSError: the storage cannot be read, or the folder not be written.
    """
    if (folder / "manifest.json").is_file():
        return True
    try:
        content = storage.read(stored_name(folder.name))
    except FileNotFoundError:
        return False
    with folder_atomically(folder) as new, tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.name in ("manifest.json", *FILES) and member.isfile():
                archive.extract(member, new, filter="data")
        load_candidate(new)
    return True


def stored_name(name: str) -> str:
    """The name of a candidate's file in a storage."""
    return f"candidates/{name}.tar"


def sourced(figures: Figures) -> dict[str, Any]:
    """Every figure with where it comes from."""
    latency = {"source": figures.source, "device": figures.device, "unit": "ms"}
    return {
        "error": {
            "value": figures.error,
            **(
                {}
                if figures.error_standard_error is None
                else {"standard_error": figures.error_standard_error}
            ),
            "source": "hard weights in PyTorch, search half of the validation images",
        },
        "divergence": {
            "value": figures.divergence,
            "standard_error": figures.divergence_standard_error,
            "unit": "nats",
            "source": "answers beside the fp32 network's, search half of the validation images",
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


def load_candidate(folder: Path) -> CandidateFolder:
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
    candidate = CandidateFolder(folder, {**manifest, "files": files})
    candidate.verify()
    return candidate
