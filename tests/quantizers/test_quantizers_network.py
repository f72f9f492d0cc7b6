"""Whole networks: quantize, train, harden, export, save and load."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.calibration.channel_scale import with_even_channels
from quantizers.core.activation import FrozenStep, TrainableStep
from quantizers.mixture.regions import Regions
from quantizers.network import (
    Hardened,
    end_layers,
    hard_state,
    harden,
    layer_names,
    load_hard,
    parameter_groups,
    quantize,
    quantizers_of,
    set_progress,
    synthetic,
    without_steps,
)
from quantizers.tracing.trace import traced

torch.set_num_threads(1)


class Small(nn.Module):
    """A residual network with one ReLU module used three times, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(x)))
        out = self.conv3(out)
        out += x
        out = F.adaptive_avg_pool2d(self.relu(out), 1)
        return self.fc(torch.flatten(out, 1))


PLAN = Plan(
    {
        "conv1": LayerPlan(8),
        "conv2": LayerPlan(4, 16),
        "conv3": LayerPlan(2, 4, zero_share=0.6),
        "fc": LayerPlan(3, 8),
    },
    activation_bits=7,
)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(16, 3, 8, 8)


@pytest.fixture
def model(images: Tensor) -> nn.Module:
    torch.manual_seed(1)
    model = Small()
    model.train()(images)  # running statistics worth having
    return model.eval()


def trained(model: nn.Module, images: Tensor, steps: int = 4, form: str = "straight") -> nn.Module:
    network = quantize(model, PLAN, images, form=form)
    optimizer = torch.optim.SGD(parameter_groups(network, 0.02, 1e-4), momentum=0.9)
    torch.manual_seed(2)
    target = torch.randint(5, (len(images),))
    for step in range(steps):
        set_progress(network, step / steps)
        optimizer.zero_grad()
        F.cross_entropy(network.train()(images), target).backward()
        optimizer.step()
    set_progress(network, 1.0)
    return network


def test_the_model_itself_is_untouched(model: nn.Module, images: Tensor) -> None:
    before, state = model(images), copy.deepcopy(model.state_dict())
    trained(model, images)
    assert torch.equal(model(images), before) and model.relu.inplace
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_int8_keeps_the_network_close(model: nn.Module, images: Tensor) -> None:
    network = quantize(model, Plan.uniform(layer_names(model), LayerPlan(8)), images).eval()
    exact = model(images)
    assert (network(images) - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("form", ["posterior", "paper"])
def test_everything_trains_and_every_parameter_is_in_one_group(
    model: nn.Module, images: Tensor, form: str
) -> None:
    network = trained(model, images, 1, form)
    groups = parameter_groups(network, 0.1, 0.01)
    members = [id(p) for group in groups for p in group["params"]]
    wanted = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(members) == sorted(wanted) and len(set(members)) == len(members)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    by_id = {member: group for group in groups for member in map(id, group["params"])}
    for _, quantizer, weight in quantizers_of(network):
        assert by_id[id(weight)]["weight_decay"] == 0.01 and by_id[id(weight)]["lr"] == 0.1
        for parameter in quantizer.own_parameters():
            assert by_id[id(parameter)]["weight_decay"] == 0 and by_id[id(parameter)]["lr"] == pytest.approx(
                0.01
            )
    assert by_id[id(network.get_submodule("bn1").weight)]["weight_decay"] == 0


def test_loss_falls(model: nn.Module, images: Tensor) -> None:
    network = quantize(model, PLAN, images)
    target = model(images).argmax(1)
    optimizer = torch.optim.SGD(parameter_groups(network, 0.05, 0.0), momentum=0.9)
    losses = []
    for step in range(40):
        set_progress(network, step / 40)
        optimizer.zero_grad()
        loss = F.cross_entropy(network.train()(images), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_each_use_of_a_module_has_its_own_quantizer(model: nn.Module, images: Tensor) -> None:
    network = quantize(model, PLAN, images)
    steps = [m for m in network.modules() if isinstance(m, TrainableStep)]
    assert len(steps) == 6 and len({id(m) for m in steps}) == 6  # input, three ReLUs, conv3, pool
    assert len({m.step.item() for m in steps}) >= 5
    assert [m.range for m in steps] == [(-128, 127), (0, 127), (0, 127), (-64, 63), (0, 127), (0, 127)]


def test_hardened_is_the_network_in_evaluation(model: nn.Module, images: Tensor) -> None:
    network = trained(model, images)
    hardened = harden(network)
    assert torch.equal(hardened.network(images), network.eval()(images))
    for name, book in hardened.codebooks.items():
        weight = hardened.network.get_submodule(name).weight
        assert (
            np.array_equal(weight.detach().numpy(), book.dequantize()) and book.bits == PLAN.layers[name].bits
        )
    assert hardened.codebooks["conv3"].zeros == pytest.approx(0.6, abs=0.02)
    assert not any(isinstance(m, TrainableStep) for m in hardened.network.modules())
    assert type(hardened.network.get_submodule("conv1")) is nn.Conv2d
    network.train()(images).sum().backward()  # the original goes on


def test_state_is_small_safe_and_complete(model: nn.Module, images: Tensor) -> None:
    hardened = harden(trained(model, images))
    buffer = io.BytesIO()
    torch.save(hard_state(hardened), buffer)
    buffer.seek(0)
    torch.manual_seed(5)
    loaded = load_hard(Small(), PLAN, torch.load(buffer, weights_only=True))
    assert torch.equal(loaded.network(images), hardened.network(images))
    for name, book in hardened.codebooks.items():
        other = loaded.codebooks[name]
        assert np.array_equal(book.indices, other.indices) and np.array_equal(book.scale, other.scale)
        assert np.array_equal(book.levels, other.levels) and book.bits == other.bits
    state = hard_state(hardened)
    assert state["conv3.indices"].dtype == torch.uint8 and state["conv3.levels"].dtype == torch.int8
    del state["conv3.levels"]
    with pytest.raises(UserError, match=r"conv3\.levels"):
        load_hard(Small(), PLAN, state)


def test_training_state_resumes_in_a_skeleton(model: nn.Module, images: Tensor) -> None:
    network = trained(model, images)
    skeleton = quantize(model, PLAN, None)
    skeleton.load_state_dict(network.state_dict())
    for a, b in ((network.eval(), skeleton.eval()), (network.train(), skeleton.train())):
        torch.manual_seed(3)
        assert torch.equal(a(images), b(images))
    twin = copy.deepcopy(network)
    assert torch.equal(twin.eval()(images), network.eval()(images))
    with torch.no_grad():
        twin.get_submodule("fc").parametrizations["weight"].original.zero_()
    assert not torch.equal(twin(images), network(images))


def test_export_shows_activation_quantizers_with_constants(model: nn.Module, images: Tensor) -> None:
    hardened = harden(trained(model, images))
    program = torch.export.export(hardened.network.eval(), (images[:1],))
    target = torch.ops.aten.fake_quantize_per_tensor_affine.default
    nodes = [node for node in program.graph.nodes if node.target is target]
    frozen = [m for m in hardened.network.modules() if isinstance(m, FrozenStep)]
    assert [tuple(node.args[1:]) for node in nodes] == [(m.step, 0, m.low, m.high) for m in frozen]
    assert all(isinstance(node.args[1], float) for node in nodes)
    assert torch.equal(program.module()(images[:1]), hardened.network(images[:1]))


def test_synthetic_has_the_shares_of_the_plan(model: nn.Module, images: Tensor) -> None:
    network = quantize(model, PLAN, images)
    first, again, other = (
        synthetic(network, PLAN, 0),
        synthetic(network, PLAN, 0),
        synthetic(network, PLAN, 1),
    )
    assert isinstance(first, Hardened)
    book = first.codebooks["conv3"]
    assert book.zeros == pytest.approx(0.6, abs=0.01) and book.bits == 2 and len(book.levels) <= 4
    assert np.array_equal(book.indices, again.codebooks["conv3"].indices)
    assert set(other.codebooks) == set(PLAN.layers)
    assert first.network(images).isfinite().all()
    hardened = harden(network)
    assert synthetic(hardened, PLAN, 0).codebooks["conv3"].zeros == pytest.approx(0.6, abs=0.01)
    assert torch.equal(hardened.network(images), network.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision_networks(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    network = quantize(model, Plan.uniform(layer_names(model), LayerPlan(8)), images)
    network.train()(images).sum().backward()
    hardened = harden(network)
    assert torch.equal(hardened.network(images), network.eval()(images))
    exact, found = (
        model(images),
        quantize(model, Plan.uniform(layer_names(model), LayerPlan(8)), images).eval()(images),
    )
    assert (found - exact).norm() < 0.2 * exact.norm()


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def test_mistakes_are_named(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(UserError, match="cannot trace Untraceable"):
        with_even_channels(Untraceable())
    with pytest.raises(UserError, match="cannot trace Untraceable"):
        quantize(Untraceable(), Plan({"conv": LayerPlan(8)}), images)
    with pytest.raises(UserError, match=r"lacks .*fc"):
        quantize(model, Plan({k: v for k, v in PLAN.layers.items() if k != "fc"}), images)
    with pytest.raises(UserError, match="conv9"):
        quantize(model, Plan({**PLAN.layers, "conv9": LayerPlan(8)}), images)
    with pytest.raises(UserError, match="quantizer"):
        quantize(model, Plan(PLAN.layers, quantizer="gausian_mixture"), images)


def _gradients(network: nn.Module, called: nn.Module, images: Tensor) -> dict[str, Tensor]:
    loss = called(images).float().square().mean()
    loss.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def test_a_compiled_network_trains_alike() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 12, 12)
    network = quantize(Small(), PLAN, images).train()
    set_progress(network, 0.3)
    twin = copy.deepcopy(network)
    plain = _gradients(network, network, images)
    compiled = _gradients(twin, torch.compile(twin, backend="aot_eager"), images)
    assert plain.keys() == compiled.keys() and any("raw_scale" in name for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def test_autocast_trains_with_finite_gradients_close_to_those_without() -> None:
    alike = []
    for seed in range(6):
        torch.manual_seed(seed)
        images = torch.randn(16, 3, 12, 12)
        network = quantize(Small(), PLAN, images).train()
        set_progress(network, 0.3)
        twin = copy.deepcopy(network)
        plain = _gradients(network, network, images)
        with torch.autocast("cpu", torch.bfloat16):
            halved = _gradients(twin, twin, images)
        assert plain.keys() == halved.keys()
        torch.testing.assert_close(halved["loss"], plain["loss"], rtol=0.05, atol=1e-3)
        for name in ("parametrizations.weight.original", "parametrizations.weight.0.mean"):
            a, b = halved[f"conv3.{name}"].flatten(), plain[f"conv3.{name}"].flatten()
            assert a.dtype == torch.float32
            alike.append(float(torch.cosine_similarity(a, b, dim=0)))
    assert min(alike) > 0.9 and sum(alike) / len(alike) > 0.98


def test_overwriting_what_a_quantizer_alone_reads_changes_no_gradient() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            return self.fc((x.relu() + x.abs()).mean((2, 3)))  # two read the norm's output, by its quantizer

    plan = Plan({"conv": LayerPlan(8), "fc": LayerPlan(8)})
    torch.manual_seed(0)
    images = torch.randn(8, 3, 12, 12)
    network = quantize(Forked(), plan, images).train()
    assert any(m.alone for m in network.modules() if isinstance(m, TrainableStep))
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, TrainableStep):
            module.alone = False
    mine, safe = _gradients(network, network, images), _gradients(twin, twin, images)
    assert all(torch.equal(mine[name], safe[name]) for name in safe)


def test_without_steps_activations_are_those_of_the_float_network() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 12, 12)
    model = Small()
    plan = Plan.uniform(layer_names(model), LayerPlan(8))
    for mode in (True, False):
        network = quantize(model, plan, images).train(mode)
        without_steps(network)
        for name in layer_names(model):  # float weights too
            torch.nn.utils.parametrize.remove_parametrizations(network.get_submodule(name), "weight", False)
        torch.testing.assert_close(network(images), copy.deepcopy(model).train(mode)(images))


def test_evaluation_projects_each_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(8, 3, 12, 12)
    network = quantize(Small(), PLAN, images).eval()
    calls: list[int] = []
    project = Regions.assign
    monkeypatch.setattr(
        Regions, "assign", lambda self, weight: (calls.append(weight.numel()), project(self, weight))[1]
    )
    for part in images.split(2):
        network(part)
    assert sorted(calls) == sorted(
        weight.numel() for _, quantizer, weight in quantizers_of(network) if quantizer.own_parameters()
    )
    calls.clear()
    hardened = harden(network).network
    projected = len(calls)
    for part in images.split(2):
        hardened(part)
    assert projected and len(calls) == projected


class ManyEnds(nn.Module):
    """Two layers that read the input, two whose outputs are the network's, and their names in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Conv2d(4, 2, 1)
        self.middle = nn.Conv2d(4, 4, 1)
        self.other_answer = nn.Conv2d(4, 2, 1)
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle((self.left(x) + self.right(x)).relu()).relu()
        return torch.cat((self.answer(x), self.other_answer(x)), 1)


def test_ends_are_those_of_the_graph() -> None:
    assert end_layers(traced(ManyEnds())) == {"left", "right", "answer", "other_answer"}
    assert end_layers(traced(nn.Sequential(nn.Conv2d(3, 4, 1)))) == {"0"}


class OneForTwo(nn.Module):
    """A convolution with two batch-norms, and two convolutions with one, as heads of detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        self.norm = nn.BatchNorm2d(8)
        self.last, self.last_norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.norms[0](self.shared(x)) + self.norms[1](self.shared(x.flip(3)))
        second = self.norm(self.convs[0](first)) + self.norm(self.convs[1](first))
        return self.last_norm(self.last(second))


def test_even_channels_change_nothing_where_modules_are_shared() -> None:
    torch.manual_seed(0)
    network, x = OneForTwo().train(), torch.randn(16, 3, 8, 8)
    for _ in range(5):
        network(x)
    even = with_even_channels(network.eval())
    torch.testing.assert_close(even(x), network(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(even.shared.weight, network.shared.weight)
    assert not torch.equal(even.last.weight, network.last.weight)
