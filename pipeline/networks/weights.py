"""Trained weights: read from a file or fetched from torchvision, and fitted to a network with clear words when they do not."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.foreign_files import first_line, is_file, is_safetensors, reason

# Where a checkpoint keeps its state dict. Averaged weights come first: where there are any, their accuracy is what is reported.
AVERAGED = ("model_ema", "ema_state_dict", "state_dict_ema", "ema", "params_ema")
NESTED = (
    *AVERAGED, "state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
TRAINING_HEADS = (
    "aux1.",
    "aux2.",
    "AuxLogits.",
)  # of torchvision's GoogLeNet and Inception; they are not built


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save or of safetensors, whatever it is wrapped in.

    A state dict nested under one of ``NESTED`` is found.

    Raises:
        UserError: no such file, a file that holds more than tensors and plain values, or no state dict in it.
    """
    path = Path(path)
    if not is_file(path):
        raise UserError(
            f"weights {str(path)!r}: there is no such file; give a file with a state dict saved by torch.save or as safetensors"
        )
    try:
        safe = is_safetensors(path)
    except OSError as error:
        raise UserError(f"weights {path}: cannot be read ({error})") from error
    state = _state_in(_safetensors(path) if safe else _pickled(path))
    if state is None:
        raise UserError(
            f"weights {path}: holds no state dict (names to tensors), also not under {', '.join(NESTED)}"
        )
    return {str(key): value for key, value in state.items() if key != COUNTER}


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here is said below, or does not matter
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint raise nearly anything: the file is at fault
        if known := reason(path):
            raise UserError(f"weights {path}: {known}") from error
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"weights {path}: refused, since reading it would run code from the file or it is not from torch.save; "
                "save the state dict alone: torch.save(network.state_dict(), FILE)"
            ) from error
        if "TorchScript" in str(error):
            raise UserError(
                f"weights {path}: a TorchScript archive; save the state dict alone: torch.save(network.state_dict(), FILE)"
            ) from error
        # torch's own advice at this place is to read the file unsafely.
        why = "" if "weights_only" in str(error) else f" ({first_line(error)})"
        raise UserError(f"weights {path}: damaged, cut off or not a file of torch.save{why}") from error


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise UserError(
            f"weights {path}: a safetensors file, which needs a package: python -m pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # see above
        raise UserError(
            f"weights {path}: damaged, cut off or not a file of safetensors ({first_line(error)})"
        ) from error


def _state_in(value: Any) -> Mapping[Any, Tensor] | None:
    if not isinstance(value, Mapping) or not value:
        return None
    if all(isinstance(v, Tensor) for v in value.values()):
        return value
    found = (_state_in(value[key]) for key in NESTED if key in value)
    return next((state for state in found if state is not None), None)


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
            f"weights {weights} of {name} could not be fetched from {entry.url} ({first_line(error)}); "
            "fetch that file elsewhere and give its path as the weights"
        ) from error
    return state


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load ``state`` into ``network``, every tensor of it and no other.

    Where the network was a part of something larger when it was saved (``model.`` in a module of Lightning), its part is
    taken and the rest (losses, metrics) left; the prefixes of ``PREFIXES`` are dropped unless they are the network's own.

    Args:
        what: names the weights and the network in the message.

    Raises:
        UserError: names or shapes do not match, or values are not finite; the message lists them.
    """
    own = network.state_dict()
    state = _part_of(state, own, what)
    # Old checkpoints lack this counter; nothing but a cumulative average reads it.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and not key.startswith(TRAINING_HEADS)]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    shapes = [f"{key} is {_shape(state[key])} instead of {_shape(own[key])}" for key in reshaped]
    kinds = [
        f"{key} is {state[key].dtype}".replace("torch.", "")
        for key in own
        if key in state and not _plain(state[key], own[key])
    ]
    parts = [
        f"{label}: {_some(rows)}"
        for label, rows in (
            ("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("of another kind", kinds)
        )
        if rows
    ]  # fmt: skip
    if parts:
        hint = ""
        layers = {key.rpartition(".")[0] for key in reshaped}
        if layers == {next(reversed(own), "").rpartition(".")[0]} and not missing and not unexpected:
            hint = "; the number of classes seems to differ"
        raise UserError(f"weights {what} do not fit: {'; '.join(parts)}{hint}")
    network.load_state_dict({**own, **{key: value for key, value in state.items() if key in own}})
    check_values(network, f"weights {what}")


def check_values(network: nn.Module, what: str) -> None:
    """Refuse weights that no trained network has.

    Raises:
        UserError: a parameter or a batch-norm statistic is not finite, or a variance is negative; the message names them.
    """
    statistics = {k: v for k, v in network.named_buffers() if k.endswith(("running_mean", "running_var"))}
    broken = [
        f"{key} holds {'NaN' if value.isnan().any() else 'infinity'}"
        for key, value in {**dict(network.named_parameters()), **statistics}.items()
        if not value.isfinite().all()
    ]
    broken += [
        f"{key} holds a negative variance"
        for key, value in statistics.items()
        if key.endswith("running_var") and (value < 0).any()
    ]
    if broken:
        raise UserError(
            f"{what} are broken: {_some(broken)}; take a checkpoint from before training went wrong"
        )


def _part_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> Mapping[str, Tensor]:
    """The tensors of ``state`` that are named as ``own``, perhaps behind one prefix, which is dropped."""
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    while needed and not needed & state.keys() and any(key.startswith(PREFIXES) for key in state):
        state = {key.split(".", 1)[1] if key.startswith(PREFIXES) else key: v for key, v in state.items()}
    if not needed or needed & state.keys():
        return state
    prefixes = {key[: -len(k)] for key in state for k in needed if key.endswith(f".{k}")}
    whole = sorted(p for p in prefixes if all(f"{p}{key}" in state for key in needed))
    averaged = [p for p in whole if "ema" in p.lower()]
    chosen = averaged or whole
    if len(chosen) > 1:
        raise UserError(
            f"weights {what}: the file holds {len(chosen)} such networks, under {_some(chosen)}; save the one that is meant: "
            "torch.save(network.state_dict(), FILE)"
        )
    if not chosen:
        return state
    return {key.removeprefix(chosen[0]): v for key, v in state.items() if key.startswith(chosen[0])}


def _plain(tensor: Tensor, own: Tensor) -> bool:
    """Whether it holds numbers as the network's ``own`` does: integers in place of fractions would lack their scale."""
    if tensor.is_quantized or tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
        return False
    return tensor.is_floating_point() or not own.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single value"


def _some(rows: Iterable[str], limit: int = 4) -> str:
    rows = list(rows)
    return ", ".join(rows[:limit]) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")
