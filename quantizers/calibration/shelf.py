"""What a node of a network gave for every batch, in memory up to a bound, beyond it in a file that has no name."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor


class _Place(NamedTuple):
    """Where a tensor lies in the file, and on which device it belongs."""

    start: int
    size: int
    device: torch.device


class Budget:
    """Bytes that tensors on shelves may take in memory together."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> bool:
        """Reserve so many, if there are as many left."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Shelf:
    """One value for each batch. Tensors that do not fit into the budget are written to a temporary file, which is gone when the
    process is, however it ends; other values (sizes, tuples) stay in memory."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._values: list[Any] = []
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def put(self, value: Any) -> None:
        """The value of the next batch."""
        if isinstance(value, Tensor):
            value = value if _whole(value) else value.clone()  # a view would keep all that it shows a part of
            if not self._budget.take(value.nbytes):
                value = self._written(value)
        self._values.append(value)

    def __getitem__(self, index: int) -> Any:
        value = self._values[index]
        return self._read(value) if isinstance(value, _Place) else value

    def take(self, index: int) -> Any:
        """The value of a batch, for the last time."""
        value, self._values[index] = self._values[index], None
        if isinstance(value, Tensor):
            self._budget.left += value.nbytes
        return self._read(value) if isinstance(value, _Place) else value

    def _written(self, tensor: Tensor) -> _Place:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="activations-")  # noqa: SIM115  lives as long as its values
        start = self._file.seek(0, io.SEEK_END)
        torch.save(tensor.cpu(), self._file)
        return _Place(start, self._file.tell() - start, tensor.device)

    def _read(self, place: _Place) -> Tensor:
        assert self._file is not None
        self._file.seek(place.start)
        content = io.BytesIO(self._file.read(place.size))
        read: Tensor = torch.load(content, weights_only=True, map_location=place.device)
        return read


def _whole(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() <= tensor.nbytes
