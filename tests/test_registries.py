"""Every registry of a folder, found in the sources: each entry can be asked for first, in an interpreter that has none other."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.import_graph import ROOT, modules

# Each entry is asked for in a process of its own, split off before any entry was imported.
SCRIPT = """
import importlib, json, os, sys
import numpy, optuna, torch  # of others: only the project's own modules are told apart
module, attribute = sys.argv[1:]
registry = getattr(importlib.import_module(module), attribute)
names, answers = list(registry), {}
loaded = [name for name in sys.modules if name.startswith(registry.folder + ".") and name in HOMES] if (
    HOMES := {home for home, _ in registry._homes.values()}) else []
for name in names:
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            entry = registry[name]
            answer = [registry[name] is entry, list(registry) == names, registry._accepts is None or registry._accepts(entry)]
        except BaseException as error:
            answer = [f"{type(error).__name__}: {error}"]
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answers[name] = json.loads(stream.read())
    os.wait()
print(json.dumps([loaded, answers]))
"""


def registries() -> Iterator[tuple[str, str]]:
    """Module and name of every registry that has a folder."""
    for module, file in modules().items():
        for node in ast.parse(file.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "Registry" and len(value.args) > 1:
                target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
                assert isinstance(target, ast.Name)
                yield module, target.id


def test_all_kinds_of_things_have_one() -> None:
    found = {name for _, name in registries()}
    assert {"QUANTIZERS", "SAMPLERS", "DEVICES", "MODELS", "DATA", "AUGMENTATIONS"} <= found


@pytest.mark.parametrize(("module", "name"), sorted(registries()), ids=lambda value: str(value))
def test_no_answer_depends_on_what_was_imported_before(module: str, name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, name], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert child.returncode == 0, child.stderr
    loaded, answers = json.loads(child.stdout)
    assert loaded == []  # names are known without any entry's module
    assert answers and all(answer == [True, True, True] for answer in answers.values()), answers
