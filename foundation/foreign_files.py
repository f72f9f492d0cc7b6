"""What a file from elsewhere is, by its first bytes, where it is not what it was given as."""

from __future__ import annotations

import codecs
from pathlib import Path

HEAD = 512
NO_ONNX = "networks are not read from ONNX, only written (pipeline.export): take the PyTorch network that it was exported from"
MAGIC = {
    b"\x89HDF": "it is an HDF5 file (Keras)",
    b"\x1f\x8b": "it is packed with gzip; unpack it",
    b"BZh": "it is packed with bzip2; unpack it",
    b"\xfd7zXZ": "it is packed with xz; unpack it",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it",
    b"\x93NUMPY": "it is one array of numpy.save",
}


def is_file(path: Path) -> bool:
    """Whether a file lies there; names that no file can have are simply not there."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_safetensors(path: Path) -> bool:
    """By its name, or by its first bytes: the length of a header, which is JSON."""
    head, size = _head(path), path.stat().st_size
    header = int.from_bytes(head[:8], "little")
    return (path.suffix == ".safetensors" and not reason(path)) or (head[8:9] == b"{" and 8 + header <= size)


def reason(path: Path) -> str | None:
    """Why a file that should hold binary data does not, in words; None where that cannot be told."""
    head = _head(path)
    if not head:
        return "the file is empty; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; git lfs pull fetches that"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, saved in place of the file; fetch the file itself"
    # A ModelProto's version, then its producer, that one's version, or what else comes first.
    if head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] in (b"\x12", b"\x1a", b":"):
        return f"it is an ONNX file; {NO_ONNX}"
    if head[4:8] == b"TFL3":
        return "it is a file of TensorFlow Lite"
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            return what
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut off at the end
    except UnicodeDecodeError:
        return None
    return "it is a text file" if all(c.isprintable() or c in "\t\r\n\f" for c in text) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)
