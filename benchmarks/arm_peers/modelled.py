"""Cycles of one counted inference, whoever's it is; and a cache for results, since counting takes minutes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from deploy_arm.cycles import estimate as cycles
from deploy_arm.cycles import mca
from deploy_arm.emulate.counts import Counts
from deploy_arm.target.cores import Core
from foundation.files import cache_directory, write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
KEPT_VERSION = 2  # counts among the key: raise it when a figure's meaning changes


@dataclass(frozen=True)
class Modelled:
    """Cycles with their interval, executed instructions, and the name of the cycle model."""

    low: float
    point: float
    high: float
    instructions: int
    model: str


def model_cycles(code: mca.Code, listing: mca.Listing, counts: Counts, core: Core) -> Modelled:
    """The cycle model on counts of a whole inference.

    Raises:
        UserError: llvm-mca is not installed, or fails: without it the peers would be modelled by a coarser table.
    """
    estimate = cycles.estimate_code(code, listing, counts, core, use_mca=True)
    return Modelled(estimate.low, estimate.point, estimate.high, counts.instructions, estimate.model)


def kept(kind: type[Record], key: Any, compute: Callable[[], Record]) -> Record:
    """A dataclass under a key (anything with a lasting ``repr``): from the cache directory, else computed and kept."""
    versions = (KEPT_VERSION, kind.__name__, cycles.MODEL_VERSION, mca.version(), key)
    name = hashlib.sha256(repr(versions).encode()).hexdigest()[:24]
    path = cache_directory("peers", "figures") / f"{name}.json"
    try:
        return kind(**json.loads(path.read_text()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError):
        path.unlink(missing_ok=True)
    result = compute()
    write_atomically(path, json.dumps(dataclasses.asdict(result)))
    return result
