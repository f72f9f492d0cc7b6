"""Trained weights: read from a file or fetched from torchvision, and fitted to a network with clear words when they do not."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.errors import UserError

NESTED = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, whatever it is wrapped in.

    A state dict nested under ``state_dict`` or ``model`` is found; the prefixes ``module.`` and ``_orig_mod.`` are dropped.

    Raises:
        UserError: no such file, a file that holds more than tensors and plain values, or no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"weights {str(path)!r}: there is no such file; give a file with a state dict saved by torch.save"
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights {path}: refused, since reading it would run code from the file or it is not from torch.save; "
            "save the state dict alone: torch.save(network.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(
            f"weights {path}: damaged or not a file of torch.save ({_first_line(error)})"
        ) from error
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(v, Tensor) for v in loaded.values())
    ):
        raise UserError(
            f"weights {path}: holds no state dict (names to tensors), also not under {', '.join(NESTED)}"
        )
    return {_bare(str(key)): value for key, value in loaded.items()}


def fetch_weights(name: str, weights: str) -> dict[str, Tensor]:
    """The state dict of torchvision's network ``name``, downloaded at first use and cached by torch.hub.

    Raises:
        UserError: torchvision has no weights of that name, or they cannot be fetched.
    """
    import torchvision.models

    choices = torchvision.models.get_model_weights(name)
    if weights not in choices.__members__:
        allowed = ", ".join(choices.__members__) or "none"
        raise UserError(
            f"weights {weights!r}: neither a file nor weights of torchvision's {name}; allowed are: {allowed}"
        )
    entry = choices[weights]
    try:
        state = dict(entry.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError) as error:  # no network, refused, damaged on the way
        raise UserError(
            f"weights {weights} of {name} could not be fetched from {entry.url} ({_first_line(error)}); "
            "fetch that file elsewhere and give its path as the weights"
        ) from error
    # Heads that only serve training are not built, so their weights have no place.
    return {
        key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))
    }


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load ``state`` into ``network``, every tensor of it and no other.

    Args:
        what: names the weights and the network in the message.

    Raises:
        UserError: names or shapes do not match; the message lists them.
    """
    own = network.state_dict()
    # Old checkpoints lack this counter; nothing but a cumulative average reads it.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {_shape(state[key])} instead of {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = [
        f"{label}: {_some(rows)}"
        for label, rows in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if rows
    ]
    if parts:
        hint = ""
        if shapes and not missing and not unexpected and len(shapes) <= 2:
            hint = "; the number of classes seems to differ"
        raise UserError(f"weights {what} do not fit: {'; '.join(parts)}{hint}")
    network.load_state_dict({**own, **state})


def _bare(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single value"


def _some(rows: Iterable[str], limit: int = 4) -> str:
    rows = list(rows)
    return ", ".join(rows[:limit]) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
