"""What leaves for elsewhere: a state that the network's owner loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import Compiled, Origin, load_candidate, write_candidate
from pipeline.export import main
from pipeline.study.records import Figures
from quantizers.network import harden, quantize

NAME = "promote_networks:tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from promote_networks import tiny

    torch.manual_seed(0)
    plan = Plan.uniform(("0", "3", "8"), LayerPlan(2, 3))
    hardened = harden(quantize(tiny().eval(), plan, torch.randn(16, 3, 8, 8)))
    place = tmp_path_factory.mktemp("study") / "candidate"
    origin = Origin(NAME, "a76", tuple("0123456789"), (8, 8), (0.5,) * 3, (0.5,) * 3, {"spec": "digits"})
    write_candidate(place, origin, plan, hardened, Compiled(None, b"blob", Figures(0.1)))
    return place


def test_the_owner_loads_the_state_strictly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promote_networks import tiny

    monkeypatch.chdir(tmp_path)
    assert main([str(folder), "--format", "state_dict"]) == 0
    (file,) = tmp_path.iterdir()
    network = tiny()
    network.load_state_dict(load_file(file), strict=True)
    candidate = load_candidate(folder)
    for name, book in candidate.hardened().codebooks.items():
        weight = network.get_submodule(name).weight.detach().numpy()
        assert (weight == book.dequantize()).all() and len(set(weight.ravel().tolist())) <= 3


def test_mistakes_are_explained(folder: Path, tmp_path: Path) -> None:
    for words, told in (
        ([str(tmp_path)], "not a candidate folder"),
        ([str(folder), "--out", str(tmp_path)], "is a folder"),
        ([str(folder), "--format", "tflite"], "invalid choice"),
        ([str(folder), "--format", "onnx", "--limit", "0"], "--limit 0: give 1 or more"),
        ([str(folder), "--format", "onnx"], "blob"),
    ):
        with pytest.raises(UserError, match=told):
            main(words)
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_line_to_type_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_arm.fuzz.networks import random_network
    from deploy_arm.interchange.compare import compare
    from deploy_arm.interchange.qdq import to_onnx

    graph, images = random_network(0, 1)
    for module, use in (
        ("onnx", lambda: to_onnx(graph, "x")),
        ("onnxruntime", lambda: compare(b"", graph, [images])),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=r"pip install 'dgms-arm-search\[onnx\]'"):
            use()


def test_an_onnx_model_answers_as_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole candidate, from the folder and data that its manifest names."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from promote_networks import tiny

    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from pipeline.datasets.registry import load_data

    torch.manual_seed(1)
    data = load_data("digits", (8, 8))
    images = data.train.batch(torch.arange(64)).float().permute(0, 3, 1, 2) / 255
    plan = Plan.uniform(("0", "3", "8"), LayerPlan(3, 4))
    hardened = harden(quantize(tiny().eval(), plan, (images - 0.5) / 0.5))
    blob = write_blob(compile_graph(hardened, (3, 8, 8), (0.5,) * 3, (0.5,) * 3))
    origin = Origin(NAME, "a76", data.classes, (8, 8), (0.5,) * 3, (0.5,) * 3, {"spec": "digits"})
    place = tmp_path / "candidate"
    write_candidate(place, origin, plan, hardened, Compiled(None, blob, Figures(0.1)))
    out = tmp_path / "net.onnx"
    assert main([str(place), "--format", "onnx", "--out", str(out), "--print", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] and told["check"]["images"] == len(data.report) and told["check"]["differing"] == 0
    assert told["check"]["clear"] > 200  # most say something
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"images": data.report.batch(torch.arange(3)).numpy()})
    assert given.shape == (3, 10)
