"""The house holds: arrows point down, nothing goes in circles, few files lie at the top, what is imported late has a reason."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.import_graph import (
    PACKAGES,
    ROOT,
    arrows,
    circles,
    eager_arrows,
    floors,
    imports,
    module_arrows,
    modules,
    reached,
)

ALLOWED = {
    "foundation": set(),
    "search_spaces": {"foundation"},
    "quantizers": {"foundation"},
    "deploy_arm": {"foundation", "quantizers", "search_spaces"},
    "pipeline": {"foundation", "search_spaces", "quantizers", "deploy_arm"},
}
AT_MOST = {"deploy_arm": 6, "pipeline": 14}  # files directly in the package, __init__ counted

# Libraries that take a while to load, which asking for help should not.
HEAVY = {"numpy", "pandas", "scipy", "sklearn", "torch", "torchvision", "safetensors", "PIL"}
HEAVY |= {"ray", "optuna", "sqlalchemy", "mlflow", "rich", "yaml"}
COMMANDS_RUN = (
    "a command imports what its work needs when the work begins, so that --help and mistakes are quick"
)
HELP_IS_QUICK = (
    "a command loads this module before its work begins, and what is imported here is heavy or brings it in"
)
LATE = {
    # who, whom (a module of the project or a library): why
    (
        "pipeline.cluster.trial",
        "*",
    ): "of the driver, which imports the class of a trial, nothing of the training is asked",
    (
        "pipeline.candidate.folder",
        "*",
    ): "who reads a candidate's files needs no network; who loads one pays for it",
    (
        "quantizers.registry",
        "quantizers.core.base",
    ): "names are known without torch; the class is compared once one is asked for",
    (
        "pipeline.study.importance",
        "optuna",
    ): "that part of Optuna brings scikit-learn and SciPy; a report of few trials is made without them",
    ("*", "onnx"): "optional; only who exports to it loads it",
    ("*", "onnxruntime"): "optional; only who exports to ONNX loads it",
    (
        "pipeline.review.mlflow_model",
        "*",
    ): "the file also lies in a registry, and on an ARM machine nothing of the project need be installed",
    (
        "deploy_arm.runtime.classify",
        "*",
    ): "the file lies in a bundle, where what is missing of Python's packages is told in a line",
    ("*", "unicorn"): "optional: where QEMU counts, it is not installed",
    ("*", "safetensors"): "only who reads such a file loads it",
    ("*", "timm"): "optional; only who takes one of its networks loads it",
    ("*", "torchvision"): "only who takes one of its networks loads it",
    (
        "*",
        "mlflow",
    ): "loading it takes seconds; it is loaded in the background thread, or when a registry is asked",
    ("*", "pandas"): "goes with mlflow",
    (
        "pipeline.sweeps.jobs",
        "ray",
    ): "what of Ray is for jobs need not be installed: its absence is told in a line",
    ("pipeline.study.storage", "pyarrow"): "a folder does without it",
    ("pipeline.study.storage", "psycopg"): "optional: only who keeps studies in PostgreSQL has it",
    (
        "pipeline.cluster.node",
        "pipeline.candidate.workspace",
    ): "who only tells nodes what they need does without torch",
    (
        "pipeline.study.checkpoints",
        "torch",
    ): "which rungs there are is known from files; only weights need it",
}


def commands() -> set[str]:
    """The modules that a person runs."""
    return {name for name, file in modules().items() if 'if __name__ == "__main__"' in file.read_text()}


@cache
def libraries(module: str) -> tuple[tuple[str, bool, int], ...]:
    """What a module imports that is not the project's: name, whether in a function, line."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool, int]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0], lazy, node.lineno
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy)

    found = walk(ast.parse(modules()[module].read_text()), False)
    return tuple(one for one in found if one[0] not in PACKAGES and one[0] not in sys.stdlib_module_names)


@cache
def brought_in(module: str) -> frozenset[str]:
    """The heavy libraries that are loaded with a module."""
    loaded = reached(module, eager_arrows())
    return frozenset(name for one in loaded for name, lazy, _ in libraries(one) if not lazy and name in HEAVY)


def late() -> Iterator[tuple[str, str, int, frozenset[str]]]:
    """Every import in a function: module, what is imported, line, and the heavy libraries that come with it."""
    for one in imports():
        if one.lazy and not one.for_types:
            yield one.source, one.target, one.line, brought_in(one.target) - brought_in(one.source)
    for module in modules():
        for name, lazy, line in libraries(module):
            if lazy:
                yield module, name, line, frozenset({name} & HEAVY) - brought_in(module)


def test_arrows_between_packages_point_down() -> None:
    found = arrows("")
    assert set(found) == set(PACKAGES)
    for package, used in found.items():
        assert used <= ALLOWED[package], f"{package} uses {sorted(used - ALLOWED[package])}"


def test_what_is_shipped_imports_no_benchmark_example_or_test() -> None:
    for module in modules():
        used = {name for name, _, _ in libraries(module)} & {"benchmarks", "examples", "tests"}
        assert not used, f"{module} uses {used}"


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_stand_on_floors(package: str) -> None:
    assert circles(arrows(package)) == []
    levels = floors(arrows(package))
    for room, used in arrows(package).items():
        assert all(levels[other] < levels[room] for other in used)


@pytest.mark.long
def test_whatever_is_imported_of_the_project_is_there() -> None:
    """The type checker passes over what it does not find."""
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                assert node.module in modules(), f"{name}, line {node.lineno}: there is no {node.module}"


def test_no_modules_go_in_a_circle() -> None:
    assert circles(module_arrows()) == []


def test_circles_are_found() -> None:
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert circles(graph) == [["b", "c"]]
    with pytest.raises(ValueError, match="circles"):
        floors(graph)
    assert floors({"a": frozenset("b"), "b": frozenset(), "c": frozenset("ab")}) == {"a": 1, "b": 0, "c": 2}


@pytest.mark.parametrize(("package", "most"), AT_MOST.items())
def test_few_files_lie_at_the_top_of_a_package(package: str, most: int) -> None:
    files = sorted(file.name for file in (ROOT / package).glob("*.py"))
    assert len(files) <= most, files


def test_every_late_import_has_its_reason() -> None:
    tops = {command for command in commands() if command.count(".") == 1 or command.endswith("__main__")}
    before = set().union(*(reached(command, eager_arrows()) for command in commands()))
    used, without = set(), []
    for source, target, line, heavy in late():
        if source in tops or (source in before and heavy):
            continue  # COMMANDS_RUN, HELP_IS_QUICK
        listed = {(source, target), (source, "*"), ("*", target)} & LATE.keys()
        used |= listed
        if not listed:
            without.append(f"{source}:{line} imports {target}")
    assert not without, (
        f"make them ordinary imports, or list them with the reason ({COMMANDS_RUN}; {HELP_IS_QUICK}): {without}"
    )
    stale = sorted(LATE.keys() - used)
    assert not stale, f"listed, but there is no such import: {stale}"


@pytest.mark.parametrize(
    "command", sorted(c for c in commands() if c.startswith("pipeline.") and c.count(".") == 1)
)
def test_asking_for_help_loads_nothing_heavy(command: str) -> None:
    told = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({command!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"print(*sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:") and not done.stderr.strip(), done.stderr


def test_the_drawing_is_printed() -> None:
    done = subprocess.run([sys.executable, "tests/import_graph.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for package in PACKAGES:
        assert (
            f"{package}: {len(arrows(package))} rooms, {sum(map(len, arrows(package).values()))} arrows"
            in done.stdout
        )
