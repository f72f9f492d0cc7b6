"""What leaves for elsewhere: a state that the network's owner loads."""

from __future__ import annotations

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
        ([str(folder), "--format", "onnx"], "invalid choice"),
    ):
        with pytest.raises(UserError, match=told):
            main(words)
    assert not list(tmp_path.iterdir())
