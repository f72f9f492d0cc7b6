"""The deployment bundle: what leaves this project when a candidate is promoted. It needs nothing but an ARM Linux."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy_arm.runtime import binding, classify
from deploy_arm.runtime.program import library_sources
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.targets import TARGETS
from foundation.command import version
from foundation.files import folder_atomically, json_text, sha256
from pipeline.candidate.folder import CandidateFolder
from pipeline.datasets import preprocessing as image
from pipeline.datasets.preprocessing import Preprocessing
from pipeline.review.bundle.readme import readme
from pipeline.training.settings import AP50

FORMAT = 1
COPIED = ("program", "weights.blob", "plan.json")
EXECUTABLE = ("program", "libnetwork.so", "classify")
CLASSIFYING = ("usage.c", "CMakeLists.txt", "Containerfile")
PACKAGE = "lib/cmake/dgms"  # where CMake looks below a prefix
LEFT_OUT = (
    "files",
    "figures",
    "references",
    "profile",
    "format",
)  # of the candidate's manifest; said anew here

SOURCES = Path(__file__).parent


def write_bundle(
    folder: Path,
    candidate: CandidateFolder,
    library: Path,
    figures: Mapping[str, Any],
    gates: Sequence[Mapping[str, Any]],
    study: str,
    preprocessing: Preprocessing | None,
) -> Path:
    """Write the bundle in one move; an existing one is replaced whole.

    It holds ``program``, ``weights.blob``, ``plan.json``, ``manifest.json`` (the candidate, the figures with their sources,
    the gates that were passed, SHA-256 of every other file), ``libnetwork.so`` (``library``) with ``network.py`` for Python,
    ``usage.c`` with ``runtime/`` (the C sources, ``network.h`` among them), ``image.py`` and ``image.c``, which make the
    network's input of an image file, ``classify`` (image files to classes), ``labels.txt``, ``README.md``, a package for CMake
    and a ``Containerfile``. Of a detector it holds nothing that classifies: no ``classify``, ``usage.c``, ``CMakeLists.txt`` or
    ``Containerfile``.

    Args:
        preprocessing: how the data set's image files became the network's input; None where only the data set knows.
    """
    target = TARGETS[candidate.manifest["target"]]
    with folder_atomically(folder) as new:
        for name in COPIED:
            shutil.copy2(candidate.folder / name, new / name)
        (new / "runtime").mkdir()
        for path in [*library_sources(), *KERNELS.glob("*.h")]:
            shutil.copyfile(path, new / "runtime" / path.name)
        shutil.copyfile(library, new / binding.LIBRARY)
        shutil.copyfile(binding.__file__, new / "network.py")
        # A class is a line, whatever its name holds.
        labels = (" ".join(str(name).split()) for name in candidate.manifest["classes"])
        (new / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
        shutil.copyfile(image.__file__, new / "image.py")
        detects = figures["accuracy"].get("metric") == AP50
        if not detects:
            shutil.copyfile(classify.__file__, new / "classify")
        how = preprocessing or Preprocessing(*candidate.image_size, "stretch")
        values: dict[str, object] = {
            "ARCHITECTURE": target.architecture,
            "HEIGHT": how.height,
            "WIDTH": how.width,
        }
        values |= {"CROP": int(how.fit == "crop"), "MARGIN": repr(how.margin), "VERSION": version()}
        (new / PACKAGE).mkdir(parents=True)
        for name in ("image.c", "image.h", *(() if detects else CLASSIFYING)):
            (new / name).write_text(_filled(name, values))
        for name in ("dgmsConfig.cmake", "dgmsConfigVersion.cmake"):
            (new / PACKAGE / name).write_text(_filled(name, values))
        make_executable(new)
        (new / "README.md").write_text(readme(candidate, figures, study, preprocessing))
        files = {
            str(path.relative_to(new)): sha256(path) for path in sorted(new.rglob("*")) if path.is_file()
        }
        manifest = {
            "format": FORMAT,
            "study": study,
            "preprocessing": preprocessing and preprocessing.as_dict(),
            "processor": {"architecture": target.architecture, "features": list(target.features)},
            **{key: value for key, value in candidate.manifest.items() if key not in LEFT_OUT},
            "figures": dict(figures),
            "gates": list(gates),
            "files": files,
        }
        (new / "manifest.json").write_text(json_text(manifest, indent=1) + "\n")
    return folder


def make_executable(bundle: Path) -> None:
    """Give the files that are run the right to be: what stores files without their rights has lost it."""
    for name in EXECUTABLE:
        if (path := bundle / name).is_file():
            path.chmod(0o755)


def _filled(name: str, values: Mapping[str, object]) -> str:
    """A text of this folder with this network's values."""
    text = (SOURCES / name).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text
