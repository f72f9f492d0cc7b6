"""A bundle as one tar file, the same bytes for the same files: no times, no owners, files in order."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from foundation.errors import UserError
from foundation.files import write_atomically
from pipeline.review.bundle import EXECUTABLE

MODES = {True: 0o755, False: 0o644}


def archive_of(bundle: Path) -> Path:
    """Beside the bundle's folder."""
    return bundle.with_name(f"{bundle.name}.tar")


def write_archive(bundle: Path, archive: Path) -> Path:
    """Write the bundle's files below one folder, MODEL-HASH, in the POSIX format.

    Raises:
        UserError: the folder is no bundle.
    """
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
        top = "-".join(
            "".join(c if c.isalnum() or c in "._-" else "-" for c in str(manifest[key]))
            for key in ("model", "hash")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{bundle} is no bundle (no readable manifest.json)") from error
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(bundle.rglob("*"), key=lambda p: p.relative_to(bundle).parts):
            if not path.is_file():
                continue
            name = path.relative_to(bundle).as_posix()
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = path.stat().st_size, MODES[name in EXECUTABLE]
            with path.open("rb") as file:
                tar.addfile(info, file)
    write_atomically(archive, written.getvalue())
    return archive
