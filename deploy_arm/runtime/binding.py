"""Runs a compiled network from Python through its shared library; needs numpy and the standard library only.

    from network import Network        # in a deployment bundle; deploy_arm.runtime.binding in the project

    with Network("weights.blob", threads=4) as network:
        scores = network.run(images)   # uint8 [N, H, W, C] or [H, W, C] -> float32 [N, K] or [K]

Images are raw pixels: the network normalizes by itself. The library's interface is described in ``network.h``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = "libnetwork.so"
MOST_THREADS = 8
DEFAULT_MEMORY = 1 << 30  # NETWORK_DEFAULT_MEMORY of network.h
TOO_LARGE = 12
MEANINGS = {  # enum network_status of network.h
    3: "the file cannot be read",
    4: "this is not a network blob",
    5: "the blob's format is of another version than the library: take both from one bundle",
    6: "the blob is damaged (size or checksum): copy it again",
    7: "the blob is not valid",
    8: "not enough memory",
    11: "the threads cannot be started here: ask for fewer",
    12: "the network needs more memory than is allowed",
    13: "this processor lacks instructions that the library was compiled for: `processor` of manifest.json names them",
}


class NetworkError(Exception):
    """The library or a blob cannot be used. ``status`` is the library's (enum network_status), 0 where it did not come so far."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Network:
    """An open network. Used by several threads, its runs take turns; for runs at the same time, open one network each.

    Args:
        blob: the weights' file.
        library: the shared library; by default the ``libnetwork.so`` beside this file.
        threads: 1 to 8 share each inference; results are the same for any number.
        memory_limit: the most bytes that the network may hold; a blob that asks for more is refused.

    Attributes:
        shape: of an image: height, width, channels.
        outputs: how many floats one image gives (K).
        memory: bytes that the network holds.

    Raises:
        NetworkError: the library cannot be loaded here, or the blob cannot be opened; the text says why.
        ValueError: ``threads`` is not from 1 to 8, or ``memory_limit`` not above 0.
    """

    shape: tuple[int, int, int]
    outputs: int
    memory: int

    def __init__(
        self,
        blob: str | os.PathLike[str],
        *,
        library: str | os.PathLike[str] | None = None,
        threads: int = 1,
        memory_limit: int = DEFAULT_MEMORY,
    ) -> None:
        self._handle: ctypes.c_void_p | None = None
        self._lock = threading.Lock()
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads={threads!r}: give a whole number from 1 to {MOST_THREADS}")
        if (
            isinstance(memory_limit, bool)
            or not isinstance(memory_limit, int)
            or not 1 <= memory_limit < 1 << 63
        ):
            raise ValueError(f"memory_limit={memory_limit!r}: give a number of bytes above 0")
        self._library = _load(Path(library) if library is not None else Path(__file__).with_name(LIBRARY))
        handle = ctypes.c_void_p()
        memory = ctypes.c_size_t(memory_limit)
        status = self._library.network_open_within(
            os.fsencode(blob), threads, ctypes.byref(memory), ctypes.byref(handle)
        )
        if status:
            meaning = MEANINGS.get(status, f"the library refuses it with status {status}")
            if status == TOO_LARGE:
                meaning += f": at least {memory.value} bytes, of {memory_limit}; memory_limit= allows more to a file you trust"
            raise NetworkError(f"{os.fspath(blob)}: {meaning}", status)
        self._handle = handle
        self.memory = memory.value
        self._process = os.getpid() if threads > 1 else None
        shape, count = (ctypes.c_size_t * 3)(), ctypes.c_size_t()
        image = self._library.network_input(handle, shape)
        scores = self._library.network_output(handle, ctypes.byref(count))
        self.shape = (shape[0], shape[1], shape[2])
        self.outputs = count.value
        # The network's own memory, valid until it is closed: never handed out.
        self._image = np.ctypeslib.as_array(image, shape=self.shape)
        self._scores = np.ctypeslib.as_array(scores, shape=(self.outputs,))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Results float32 [N, K] of uint8 images [N, H, W, C], or [K] of one image [H, W, C].

        Raises:
            TypeError: ``images`` is no numpy array of uint8.
            ValueError: another shape, or the network is closed.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = f"{images.dtype} array" if isinstance(images, np.ndarray) else type(images).__name__
            raise TypeError(f"images must be a numpy array of raw uint8 pixels, not {kind}")
        if images.ndim not in (3, 4) or images.shape[-3:] != self.shape:
            height, width, channels = self.shape
            raise ValueError(
                f"images must be [N, {height}, {width}, {channels}] or [{height}, {width}, {channels}] "
                f"(height, width, channels), not {list(images.shape)}"
            )
        batch = images.reshape(-1, *self.shape) if images.size else np.empty((0, *self.shape), np.uint8)
        results = np.empty((len(batch), self.outputs), np.float32)
        with self._lock:
            if self._handle is None:
                raise ValueError("the network is closed; open it again")
            if self._is_copy():
                raise ValueError(
                    "a network with several threads does not survive fork(); open it in this process"
                )
            for image, result in zip(batch, results):
                self._image[...] = image
                self._library.network_run(self._handle)
                result[...] = self._scores
        return results if images.ndim == 4 else results[0]

    def close(self) -> None:
        """Frees the network after the run in progress; a second time does nothing."""
        with self._lock:
            if self._handle is not None:
                if not self._is_copy():
                    self._library.network_close(self._handle)
                self._handle = None
                del self._image, self._scores

    def _is_copy(self) -> bool:
        """Whether this is a forked process, where the network's threads are not: to wait for them would be for ever."""
        return self._process not in (None, os.getpid())

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def _load(path: Path) -> Any:
    """The library with its functions' types declared."""
    if not path.is_file():
        raise NetworkError(f"the library {path} does not exist; name it with library=")
    try:
        library = ctypes.CDLL(os.fspath(path.resolve()))
        opened, given = library.network_open_within, library.network_input
        output, run, closed = library.network_output, library.network_run, library.network_close
    except (OSError, AttributeError) as error:
        raise NetworkError(
            f"{path} cannot be used on this {platform.machine()} machine ({error}); it must be built for its processor and its "
            "C library"
        ) from error
    network, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
    opened.argtypes, opened.restype = (
        [ctypes.c_char_p, ctypes.c_int, size, ctypes.POINTER(network)],
        ctypes.c_int,
    )
    given.argtypes, given.restype = [network, size], ctypes.POINTER(ctypes.c_uint8)
    output.argtypes, output.restype = [network, size], ctypes.POINTER(ctypes.c_float)
    run.argtypes, run.restype = [network], None
    closed.argtypes, closed.restype = [network], None
    return library
