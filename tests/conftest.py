"""What several tests share: where the real data lies, modest use of the machine, and the marks by which parts are run."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Ray lets its workers wait for whatever else this machine does, and here that is the test that waits for them.
os.environ.setdefault("RAY_worker_niceness", "0")
# Hundreds of processes would each compile what they import.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
# A person's own boards are none of the tests'.
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir(), "tests-without-configuration"))

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.kept import Note, keep_rows

sys.dont_write_bytecode = False
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that tests can interrupt what they start
# How long an example takes depends on what else the machine does, and is asserted nowhere.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
ROOT = Path(__file__).resolve().parent.parent


EMULATED = ("test_runtime_", "test_profile_")  # nearly all that such files hold runs ARM programs
# Files that take more than ten seconds of a core in all: real networks, processes of their own, training.
LONG = {
    "test_benchmarks_calibration.py",
    "test_benchmarks_cotuning_accuracy.py",
    "test_benchmarks_search_efficiency.py",
    "test_benchmarks_trial_accuracy.py",
    "test_compiler_coding.py",
    "test_compiler_coverage.py",
    "test_compiler_floats.py",
    "test_compiler_last_operation.py",
    "test_compiler_networks.py",
    "test_compiler_support.py",
    "test_engine_conductor.py",
    "test_engine_study.py",
    "test_kernel_sources.py",
    "test_pipeline_any_bytes.py",
    "test_pipeline_cotuning.py",
    "test_pipeline_detection.py",
    "test_pipeline_estimate.py",
    "test_pipeline_first_check.py",
    "test_pipeline_foreign_images.py",
    "test_pipeline_models.py",
    "test_pipeline_outputs.py",
    "test_pipeline_own_model.py",
    "test_pipeline_paths.py",
    "test_pipeline_promote.py",
    "test_pipeline_promotion.py",
    "test_pipeline_quantizers.py",
    "test_pipeline_sensitivity.py",
    "test_pipeline_sweep.py",
    "test_pipeline_tracking.py",
    "test_pipeline_train.py",
    "test_quantizers_assignment.py",
    "test_quantizers_conformance.py",
    "test_quantizers_network.py",
    "test_quantizers_outliers.py",
    "test_quantizers_reconstruction.py",
    "test_quantizers_registry.py",
    "test_quantizers_soft_weight.py",
    "test_quantizers_uncompiled.py",
    "test_registries.py",
    "test_search_spaces_dimensions.py",
    "test_search_spaces_programme.py",
}
# What reaches the pure rooms (pyproject.toml). Only these are run under coverage, which makes Python half as slow again.
COVERING = (
    "test_foundation_",
    "test_search_spaces_",
    "test_engine_",
    "test_compiler_",
    "test_pipeline_confidence",
    "test_pipeline_gates",
    "test_pipeline_recommendation",
    "test_pipeline_remaining",
    "test_registries",
    "test_examples_extending",
)
# The whole commands that take longest, from the longest on: begun first, no worker is left alone with one at the end.
LONGEST = (
    "readme",
    "extending",
    "detection",
    "nodes",
    "engine",
    "devices",
    "trial",
    "search",
    "boards",
    "mlflow",
    "cluster",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", metavar="FILE.csv", help="keep what each test came to, and its seconds")
    parser.addoption("--faults", metavar="FILE.csv", help="keep the rows of the fault table that were made")


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    items.sort(key=lambda item: begun(item.path))
    for item in items:
        name = item.path.name
        if config.pluginmanager.hasplugin("_cov") and not name.startswith(COVERING):
            item.add_marker("no_cover")
        if item.path.parent.name == "system":
            item.add_marker("system")
        elif item.path.name.startswith(EMULATED):
            item.add_marker("emulated")
        elif item.path.name in LONG:
            item.add_marker("long")


def begun(file: Path) -> int:
    """The place of a file in the order in which files are begun: what takes long comes first."""
    if file.parent.name == "system":
        name = file.stem.removeprefix("test_system_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)
    return 0 if file.name.startswith(EMULATED) or file.name in LONG else 1


FAULTS = ("fault", "found", "lost", "test")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed", "skipped", "error")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" or outcome != "passed"
    ]
    if (path := config.getoption("--outcomes")) is not None:
        rows = [(report.nodeid, outcome, round(report.duration, 1)) for outcome, report in reports]
        ran = {report.nodeid for _, report in reports}
        keep_rows(Path(path), ("test", "outcome", "seconds"), rows, ran, config.rootpath)
    if (path := config.getoption("--faults")) is not None:
        told = [(*row, report.nodeid) for outcome, report in reports if outcome == "passed"
                for key, row in report.user_properties if key == "fault"]  # fmt: skip
        ran = {report.nodeid for outcome, report in reports if outcome != "skipped"}
        keep_rows(Path(path), FAULTS, told, ran, config.rootpath)


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Note:
    """Note a row of the fault table: what was done, and what was found afterwards. A test calls it at its end, when it has found
    it so; ``--faults`` keeps the rows of tests that passed."""

    def note(done: str, found: str) -> None:
        record_property("fault", [done, found, "nothing"])

    return note


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and pretrained weights: CNN_SHARED, or ``shared`` beside the checkout."""
    folder = Path(os.environ.get("CNN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "weights").is_dir():
        pytest.skip(f"no real data at {folder} (set CNN_SHARED to its place)")
    return folder


def atlas(path: Path) -> np.ndarray:
    """The 1000 CIFAR-10 images of one lossless atlas: uint8 [1000, 32, 32, 3]."""
    image = np.asarray(Image.open(path).convert("RGB"))
    return image.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)


@pytest.fixture(scope="session")
def cifar10(shared: Path) -> dict[str, np.ndarray]:
    """A part of CIFAR-10: 2000 training and 1000 test images, uint8 NHWC, with their labels."""
    folder = shared / "data" / "cifar10"
    return {
        "x_train": np.concatenate([atlas(folder / f"train_{i:02d}.webp") for i in range(2)]),
        "y_train": np.load(folder / "train_labels.npy")[:2000].astype(np.int64),
        "x_val": atlas(folder / "test_a_0.webp"),
        "y_val": np.load(folder / "test_a_labels.npy")[:1000].astype(np.int64),
    }


@pytest.fixture(scope="session")
def cifar10_npz(cifar10: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an npz file, for ``--data npz:FILE``."""
    path = tmp_path_factory.mktemp("cifar10") / "cifar10.npz"
    np.savez(path, **cifar10)
    return path
