"""Labelled images in memory or in files, as uint8 batches [N, H, W, 3]; batches augmented and normalized."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from foundation.errors import UserError
from foundation.foreign_files import first_line, reason
from pipeline.datasets.preprocessing import Preprocessing

ENTRIES: tuple[str, ...] = ()  # helps data sets, is none
Indices = Tensor | Sequence[int]
READ_AT_MOST = 2**30  # bytes of image files, to see whether they have changed


class UnreadableImage(UserError):
    """An image file that cannot be decoded."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be decoded ({why}); mend it or take it out of the data set")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.why)


class Images(ABC):
    """Labelled RGB images of one size.

    Attributes:
        labels: int64 [N], on the CPU; of a detector's images float32 [N, ...] (``pipeline.detection.data.padded``).
        image_size: (height, width) of what ``batch`` returns.
        preprocessing: how an image file becomes what ``batch`` returns; None where only the data set knows.
    """

    labels: Tensor
    image_size: tuple[int, int]
    preprocessing: Preprocessing | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices: Indices) -> Tensor:
        """The images at ``indices``, uint8 [n, H, W, 3], on the CPU.

        Raises:
            UserError: an image file cannot be decoded; the message names it.
        """

    @abstractmethod
    def subset(self, indices: Indices) -> Images:
        """The images at ``indices``, in that order."""

    @abstractmethod
    def names(self) -> list[int] | list[str]:
        """What identifies each image in its data set: its number in the file, or its path."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of all images as stored, before resizing, in order, with their labels."""

    def size(self) -> int:
        """Bytes of files that have to be read for them; 0 where they lie in memory."""
        return 0

    def packed(self) -> Images:
        """The same with the files' bytes in memory, for a node that does not see the folder."""
        return self

    def content(self) -> str:
        """Changes where the images or their labels change, as far as ``READ_AT_MOST`` bytes of files tell."""
        return self.digest()


class ArrayImages(Images):
    """Images that lie in memory as uint8 [M, h, w, 3] or [M, h, w, 1] and are resized when they are asked for."""

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        image_size: tuple[int, int] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}, not uint8 [M, h, w, 1 or 3]")
        self._pixels = pixels
        self._all_labels = labels.to(torch.int64)
        self._rows = torch.arange(len(pixels)) if rows is None else rows
        self.labels = self._all_labels[self._rows]
        self.image_size = image_size or (pixels.shape[1], pixels.shape[2])
        self.preprocessing = Preprocessing(*self.image_size, "stretch")

    def __getstate__(self) -> dict[str, Any]:
        """With the pixels as numpy's array, which the processes of a node share where they lie in shared memory."""
        return {**self.__dict__, "_pixels": self._pixels.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with warnings.catch_warnings():  # shared memory cannot be written to, and nobody does
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.__dict__.update({**state, "_pixels": torch.from_numpy(state["_pixels"])})

    def batch(self, indices: Indices) -> Tensor:
        pixels = self._pixels[self._rows[torch.as_tensor(indices, dtype=torch.int64)]]
        return resize(pixels, self.image_size).expand(-1, -1, -1, 3).contiguous()

    def subset(self, indices: Indices) -> ArrayImages:
        rows = self._rows[torch.as_tensor(indices, dtype=torch.int64)]
        return ArrayImages(self._pixels, self._all_labels, self.image_size, rows)

    def names(self) -> list[int]:
        return self._rows.tolist()

    def digest(self) -> str:
        digest = hashlib.sha256(str(tuple(self._pixels.shape[1:])).encode())
        for rows in self._rows.split(1024):
            digest.update(self._pixels[rows].numpy().tobytes())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


class FileImages(Images):
    """Image files, decoded by a few threads when they are asked for.

    The shorter side is resized to ``image_size``, or to a little more, then the centre is cut out: ``Preprocessing.cropping``.
    """

    preprocessing: Preprocessing

    def __init__(self, root: Path, files: Sequence[str], labels: Tensor, image_size: tuple[int, int]) -> None:
        self._root = root
        self._files = list(files)
        self.labels = labels.to(torch.int64)
        self.image_size = image_size
        self.preprocessing = Preprocessing.cropping(*image_size)
        self._threads: ThreadPoolExecutor | None = None
        self._bytes: list[NDArray[np.uint8]] | None = None  # of each file, where they travel

    def stretched(self) -> FileImages:
        """The same with both sides resized to the size: nothing is cut off, the aspect is not kept."""
        images = FileImages(self._root, self._files, self.labels, self.image_size)
        images.preprocessing = Preprocessing(*self.image_size, "stretch")
        return images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_threads": None}  # threads do not travel to another process

    def packed(self) -> FileImages:
        images = copy.copy(self)
        images._threads = None
        images._bytes = [np.frombuffer((self._root / name).read_bytes(), np.uint8) for name in self._files]
        return images

    def size(self) -> int:
        return sum((self._root / name).stat().st_size for name in self._files)

    def _content(self, index: int) -> bytes:
        if self._bytes is None:
            return (self._root / self._files[index]).read_bytes()
        return self._bytes[index].tobytes()

    def batch(self, indices: Indices) -> Tensor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")
        numbers = torch.as_tensor(indices, dtype=torch.int64).tolist()
        decoded = list(self._threads.map(self._decode, numbers))
        return (
            torch.from_numpy(np.stack(decoded))
            if decoded
            else torch.empty((0, *self.image_size, 3), dtype=torch.uint8)
        )

    def _decode(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        path = self._root / self._files[index]
        try:
            return self.preprocessing.read(path if self._bytes is None else io.BytesIO(self._content(index)))
        except Exception as error:  # damaged images raise nearly anything: the file is at fault
            raise UnreadableImage(path, reason(path) or first_line(error)) from error

    def subset(self, indices: Indices) -> FileImages:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        images = FileImages(
            self._root, [self._files[i] for i in rows.tolist()], self.labels[rows], self.image_size
        )
        images.preprocessing = self.preprocessing
        if self._bytes is not None:
            images._bytes = [self._bytes[i] for i in rows.tolist()]
        return images

    def names(self) -> list[str]:
        return list(self._files)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels.tolist()):
            digest.update(hashlib.sha256(self._content(index)).digest() + label.to_bytes(8, "little"))
        return digest.hexdigest()

    def _listed(self) -> str:
        rows = (
            f"{name}\0{(self._root / name).stat().st_size}\0{label}\n"
            for name, label in zip(self._files, self.labels.tolist())
        )
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    def content(self) -> str:
        """``digest``, or where the files are too many bytes to read all: their names, sizes and labels, and as many evenly chosen
        files as may be read."""
        sizes = [(self._root / name).stat().st_size for name in self._files]
        every = math.ceil(sum(sizes) / READ_AT_MOST)
        return (
            self.digest() if every <= 1 else self._listed() + self.subset(range(0, len(self), every)).digest()
        )


def resize(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Bilinear, averaging over what shrinks: uint8 [n, h, w, C] to uint8 [n, *image_size, C]; the aspect is not kept."""
    if tuple(pixels.shape[1:3]) == image_size:
        return pixels
    if not len(pixels):
        return pixels.new_empty((0, *image_size, pixels.shape[3]))
    stretch = Preprocessing(*image_size, "stretch")
    planes = pixels.squeeze(3) if pixels.shape[3] == 1 else pixels  # Pillow knows grey images as [h, w]
    resized = np.stack([np.asarray(stretch.fitted(Image.fromarray(plane))) for plane in planes.numpy()])
    return torch.from_numpy(resized).view(len(pixels), *image_size, pixels.shape[3])


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W]: pixels in 0..1, minus ``mean``, over ``std``, per channel."""
    planes = pixels.permute(0, 3, 1, 2).float() / 255
    shape = (1, -1, 1, 1)
    return (planes - torch.tensor(mean, device=planes.device).view(shape)) / torch.tensor(
        std, device=planes.device
    ).view(shape)
