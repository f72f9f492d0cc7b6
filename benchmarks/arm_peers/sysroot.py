"""An ARM Linux to run the peers in: Python from Debian's arm64 packages, the peers from their own wheels.

Everything lies in the cache directory. apt runs with a state of its own, so the machine's packages are never touched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from deploy_arm.target.host import tail
from foundation.errors import UserError
from foundation.files import cache_directory

DEBIAN = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("python3.11", "libstdc++6", "libgomp1")
ORT_VERSION, NCNN_VERSION, NUMPY_VERSION = "1.32.0", "1.0.20261020", "2.4.6"
WHEELS = (f"onnxruntime=={ORT_VERSION}", f"ncnn=={NCNN_VERSION}", f"numpy=={NUMPY_VERSION}")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# What the peers choose their kernels by: no SVE, which the cycle models lack; i8mm and bfloat16 only in the second line. The
# host's file would be that of another architecture.
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)
MATRIX_FEATURES = f"{FEATURES} i8mm bf16"
CPU_INFORMATION = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
CPU revision\t: 1

"""
CORTEX_A76 = CPU_INFORMATION.format(features=FEATURES, part="0xd0b")
CORTEX_X2 = CPU_INFORMATION.format(features=MATRIX_FEATURES, part="0xd48")
APT_CONFIGURATION = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "{0}/state";
Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "{0}/none";
Dir::Etc::preferencesparts "{0}/none";
"""


def run_command(command: list[str], **environment: str) -> None:
    """Runs a command silently.

    Raises:
        UserError: it is missing or fails; the message has the end of its output.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise UserError(
            f"{command[0]} cannot be started ({error}); the peers need a Debian system"
        ) from error
    if done.returncode != 0:
        raise UserError(f"`{' '.join(command[:4])} ...` failed: {tail(done.stdout)}")


def sysroot() -> Path:
    """The folder that QEMU takes as the root of the file system, set up if it is not there yet (60 MB to fetch).

    Raises:
        UserError: no network, or apt-get, dpkg-deb or Debian's keyring are missing.
    """
    content = repr((DEBIAN, PACKAGES, WHEELS, CORTEX_A76))
    root = cache_directory("peers") / f"root-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if root.exists():
        return root
    print("setting up the peers' ARM system in", root, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".root-") as folder:
        work, made = Path(folder, "work"), Path(folder, "root")
        made.mkdir()
        for package in fetch_packages(work / "apt"):
            run_command(["dpkg-deb", "-x", str(package), str(made)])
        fetch_wheels(work / "wheels", made / "site")
        write_cpu_files(made, CORTEX_A76)
        try:
            made.rename(root)
        except OSError:
            if not root.exists():  # somebody else may have finished first
                raise
    return root


def matrix_sysroot() -> Path:
    """The same system on a core with matrix instructions (i8mm); its files are links to the first one's.

    Raises:
        UserError: as ``sysroot``.
    """
    first = sysroot()
    root = first.with_name(f"{first.name}-matrix")
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".root-") as folder:
            made = Path(folder, "root")
            shutil.copytree(first, made, symlinks=True, copy_function=os.link)
            (made / "proc" / "cpuinfo").unlink()
            write_cpu_files(made, CORTEX_X2)
            made.rename(root)
    return root


def fetch_packages(folder: Path) -> list[Path]:
    """Debian's arm64 packages with everything they depend on."""
    if not KEYRING.exists():
        raise UserError(f"{KEYRING} is missing: `apt-get install debian-archive-keyring`")
    for name in ("state/lists/partial", "cache/archives/partial", "none"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "status").touch()
    source = f"deb [arch=arm64 signed-by={KEYRING}] http://deb.debian.org/debian {DEBIAN} main\n"
    (folder / "sources.list").write_text(source)
    configuration = folder / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(folder))
    run_command(["apt-get", "update"], APT_CONFIG=str(configuration))
    run_command(["apt-get", "install", "-y", "--download-only", *PACKAGES], APT_CONFIG=str(configuration))
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def fetch_wheels(folder: Path, site: Path) -> None:
    """Fetches the peers' aarch64 wheels and unpacks them."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    run_command([*command, f"--dest={folder}", *WHEELS])
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def write_cpu_files(root: Path, information: str) -> None:
    """One core, as Linux describes it: ONNX Runtime stops on import when it reads another architecture's."""
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(information)
    cpus = root / "sys" / "devices" / "system" / "cpu"
    if not cpus.exists():
        (cpus / "cpu0").mkdir(parents=True)
        for name in ("online", "possible", "present", "kernel_max"):
            (cpus / name).write_text("0\n")


def guest_options(root: Path) -> list[str]:
    """QEMU's options for a program of the sysroot: its root, one thread, the peers' packages."""
    variables = {
        "PYTHONPATH": str(root / "site"),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # it sends, and its thread would be counted
    }
    return ["-L", str(root), *(word for item in variables.items() for word in ("-E", "=".join(item)))]


def guest_python(root: Path) -> list[str]:
    """The command of the ARM Python."""
    return [str(root / "usr" / "bin" / "python3.11"), "-S", "-B"]
