"""The accuracy table's best networks as candidate folders, so that ``python -m pipeline.evaluate`` finds their accuracy again."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.study.records import Figures
from pipeline.study.settings import Settings

if TYPE_CHECKING:
    from benchmarks.cotuning_table import Cell, Row
    from pipeline.training.cotuning import Cotuning
    from quantizers.network import Hardened


def name_of(cell: Cell) -> str:
    """A folder's name: all that tells cells apart, but for seed and rates, among which the best is kept, and for machine and
    data type."""
    zeros = "" if cell.zero_share is None else f"-{100 * cell.zero_share:g}zeros"
    return f"{cell.network}-{cell.method}-{cell.bits}bit-activations{cell.activation_bits}{zeros}-{cell.epochs:g}epochs"


def keep(folder: Path, row: Row, run: Cotuning, hardened: Hardened, blob: bytes) -> bool:
    """Write the cell's network under ``folder``, unless one that is as good on the search half lies there already.

    The folder has no program: there is one for all networks, which ``pipeline.evaluate --on arm`` builds. In
    ``manifest.json`` the row stands under ``notes``.

    Returns:
        Whether it was written.
    """
    from pipeline.candidate.deployment import layer_details
    from pipeline.candidate.details import dump_details
    from pipeline.candidate.folder import Compiled, Origin, write_candidate
    from pipeline.datasets.base import split_manifest

    data, place = run.data, folder / name_of(row.cell)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # another process may be at the same folder
        if place.exists() and row.search_top1 <= _search_top1(place):
            return False
        splits = split_manifest(data) | {"data": row.cell.data}
        origin = Origin(
            row.cell.network,
            Settings().target,
            tuple(data.classes),
            data.image_size,
            tuple(run.mean),
            tuple(run.std),
            {"spec": row.cell.data, "name": row.cell.data, "splits": splits},
            {"benchmark": "cotuning_accuracy", **row.record()},
        )
        compiled = Compiled(None, blob, Figures(1 - row.search_top1, size_bytes=len(blob)))
        details = dump_details(layer_details(run.network, hardened.codebooks))
        write_candidate(place, origin, run.plan, hardened, compiled, details)
    return True


def _search_top1(place: Path) -> float:
    manifest = json.loads((place / "manifest.json").read_text())
    return 1 - float(manifest["figures"]["error"]["value"])
