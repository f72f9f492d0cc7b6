"""What a trial inherits: the latent weights that a candidate which finished before it has kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from foundation.errors import UserError
from pipeline.candidate.folder import LATENT, fetch_candidate, load_candidate
from pipeline.study.storage import DamagedFile, Storage
from pipeline.training.incumbent import Incumbent


def read_incumbent(place: Path, storage: Storage) -> Incumbent | str:
    """The candidate whose folder ``place`` is, or would be where it lies in the storage alone; why not, where it cannot be had.

    Raises:
        OSError: the storage cannot be read.
    """
    with tempfile.TemporaryDirectory() as here:
        try:
            if not place.is_dir():
                place = Path(here, place.name)
                if not fetch_candidate(storage, place):
                    return f"there is no candidate {place.name} any more"
            candidate = load_candidate(place)
            if LATENT not in candidate.manifest["files"]:
                return f"candidate {place.name} has kept no {LATENT}"
            state = torch.load(place / LATENT, map_location="cpu", weights_only=True)
            return Incumbent(candidate.plan, state)
        except (UserError, DamagedFile, FileNotFoundError) as error:
            return str(error)
