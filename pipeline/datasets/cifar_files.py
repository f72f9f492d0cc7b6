"""The files of CIFAR-10 in its binary and its python version; nothing in a file is ever executed.

Both are described at https://www.cs.toronto.edu/~kriz/cifar.html. The python version is pickles; they are read by an
unpickler that knows four names (an array, its type, how to rebuild one, text to bytes) and builds inert records for them.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_cifar10(folder: Path) -> tuple[Part, Part]:
    """Training and test images of CIFAR-10: (uint8 [N, 32, 32, 3], int64 [N]) each.

    ``folder`` holds the files themselves or a folder ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.

    Raises:
        UserError: no such folder, files missing, damaged or not of this form.
    """
    if not folder.is_dir():
        raise UserError(
            f"cifar10:{folder}: there is no such folder; give the one that holds cifar-10-batches-bin or -py"
        )
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        for suffix, read in ((".bin", _read_binary), ("", _read_python)):
            names = [f"data_batch_{number}{suffix}" for number in range(1, 6)] + [f"test_batch{suffix}"]
            found = [name for name in names if (place / name).is_file()]
            if not found:
                continue
            if missing := sorted(set(names) - set(found)):
                raise UserError(f"{place} lacks {', '.join(missing)}; unpack the whole CIFAR-10 archive")
            *train, test = [read(place / name) for name in names]
            return (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), test
    raise UserError(
        f"cifar10:{folder}: neither data_batch_1.bin nor data_batch_1 lies here or in cifar-10-batches-bin or -py; "
        "unpack the archive from https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _read_binary(path: Path) -> Part:
    rows = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if not len(rows) or len(rows) % (PIXELS + 1):
        raise UserError(
            f"{path} has {len(rows)} bytes, not a multiple of {PIXELS + 1}: damaged or not a CIFAR-10 binary batch"
        )
    rows = rows.reshape(-1, PIXELS + 1)
    return _part(path, rows[:, 1:], rows[:, 0])


def _read_python(path: Path) -> Part:
    try:
        record = _Inert(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        plain = {key.decode() if isinstance(key, bytes) else key: value for key, value in record.items()}
        data, labels = plain["data"], plain["labels"]
        pixels = data.array() if isinstance(data, _Array) else None
        if pixels is None or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not isinstance(labels, list):
            raise ValueError("no images of 3 x 32 x 32 bytes with a list of labels")
        return _part(path, pixels, np.array(labels, dtype=np.int64))
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything: the file is at fault, whatever it is
        raise UserError(
            f"{path}: refused or damaged ({error}); give the unchanged file of CIFAR-10, or its binary version (no pickle)"
        ) from error


def _part(path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any]) -> Part:
    labels = labels.astype(np.int64)
    if len(pixels) != len(labels) or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(CLASSES):
        raise UserError(
            f"{path}: {len(pixels)} images and {len(labels)} labels, which must be 0..9: not CIFAR-10"
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels


class _Type:
    """What a pickled numpy type says of itself."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields mean nothing to single bytes, the only type accepted."""


class _Array:
    """What a pickled numpy array says of itself: version, shape, type, Fortran order, bytes."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.type, self.fortran, self.content = state

    def array(self) -> NDArray[np.uint8]:
        if self.type.code != "u1" or not isinstance(self.content, bytes):
            raise ValueError(f"an array of type {self.type.code!r} instead of bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order="F" if self.fortran else "C")


def _rebuild(*description: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return codecs.latin_1_encode(text)[0]


class _Inert(pickle.Unpickler):
    """An unpickler to which every name but four is unknown."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _rebuild,
            ("numpy._core.multiarray", "_reconstruct"): _rebuild,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, reference: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside the file")
