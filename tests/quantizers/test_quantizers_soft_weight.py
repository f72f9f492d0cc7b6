"""The tabulated soft weight against the exact N x K form: values, every gradient, outliers, borders between components."""

# mypy: disable-error-code="call-arg"
# A layer and its mixture are passed as one list.

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from quantizers.mixture import soft_table
from quantizers.mixture import soft_weight as module
from quantizers.mixture.kmeans import kmeans
from quantizers.mixture.regions import regions
from quantizers.mixture.soft_evaluation import Mixture
from quantizers.mixture.soft_weight import DIRECT, look_ups, soft_weight, soft_weight_exact

torch.set_num_threads(1)


def layer(count: int, components: int, tails: str, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Weights with outliers at 10 standard deviations and a mixture fitted to them, scales jittered."""
    torch.manual_seed(seed)
    weight = torch.randn(count) if tails == "normal" else torch.distributions.StudentT(3.0).sample((count,))
    weight = 0.05 * weight
    weight[:4] = torch.tensor([-0.5, 0.5, 0.8, -0.8])
    clusters = kmeans(weight.numpy(), components, pin_zero=True)
    scale = torch.tensor(clusters.deviations).clamp(min=0.0005)
    scale = scale * torch.empty_like(scale).uniform_(0.7, 1.4)
    share = torch.tensor(clusters.counts / clusters.counts.sum()).clamp(min=1e-9)
    return weight, [torch.tensor(clusters.centres), scale, share.log()]


def exact_gradients(
    weight: Tensor, leaves: list[Tensor], form: str, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and weight gradients of the exact form in pieces; those of the mixture pile up in ``leaves``."""
    values, slopes = [], []
    for w, g in zip(weight.double().split(4096), upstream.double().split(4096)):
        w.requires_grad_()
        out = soft_weight_exact(w, *leaves, form)
        out.backward(g)
        values.append(out.detach())
        slopes.append(w.grad)
    return torch.cat(values), torch.cat(slopes)


CASES = [
    (form, temperature, components, tails)
    for form, temperatures in (("posterior", (1.0, 0.1, 0.02, 0.001)), ("paper", (0.5, 0.01)))
    for temperature in temperatures
    for components in (4, 8, 16)
    for tails in ("normal", "heavy")
]
CASES += [("posterior", 0.02, 256, "heavy"), ("paper", 0.01, 256, "normal"), ("paper", 0.01, 256, "heavy")]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables from 2048 weights on, so that they are put to the proof without a slow reference of many more."""
    monkeypatch.setattr(module, "DIRECT", 2048)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("form", "temperature", "components", "tails"), CASES)
def test_values_and_gradients_are_close(form: str, temperature: float, components: int, tails: str) -> None:
    weight, mixture = layer(30_000 if components < 100 else 8_000, components, tails)
    # Mostly of one sign, so that no gradient is a difference of large sums, which no method would get to 1 %.
    upstream = torch.randn_like(weight) * (0.2 + weight.abs()) + 1.0
    fast = [t.clone().requires_grad_() for t in (*mixture, torch.tensor(temperature, dtype=torch.float64))]
    slow = [t.detach().clone().requires_grad_() for t in fast]
    w = weight.clone().requires_grad_()
    out = soft_weight(w, *fast, form)
    out.backward(upstream)
    values, slopes = exact_gradients(weight, slow, form, upstream)
    assert (out - values).abs().max() < 1e-4 * mixture[0].abs().max()
    assert (out - values).norm() < 4e-4 * values.norm()
    assert (w.grad - slopes).norm() < 1e-2 * slopes.norm()
    for name, a, b in zip(("mean", "scale", "prior"), fast, slow):
        assert (a.grad - b.grad).norm() < 1e-2 * b.grad.norm(), name
    # One number, a sum of both signs: compared with the sum of the magnitudes.
    constant = [t.detach() for t in slow[:3]]
    _, each = torch.func.jvp(
        lambda t: soft_weight_exact(weight.double(), *constant, t, form),
        (slow[3].detach(),),
        (torch.ones_like(slow[3]),),
    )
    assert (fast[3].grad - slow[3].grad).abs() < 1e-2 * (each * upstream).abs().sum()


@pytest.mark.parametrize("form", ["posterior", "paper"])
@pytest.mark.parametrize("components", [2, 4, 16])
def test_gradcheck_in_double(form: str, components: int) -> None:
    torch.manual_seed(components)
    mean = torch.cat([torch.zeros(1), torch.randn(components - 1)]).double()
    inside = torch.rand(40, dtype=torch.float64) * (mean.max() - mean.min()) * 0.9 + mean.min() + 0.05
    weight = inside.clamp(mean.min() + 1e-3, mean.max() - 1e-3)
    rest = (
        (torch.rand(components) + 0.3).double(),
        torch.randn(components).double(),
        torch.tensor(0.4).double(),
    )
    leaves = [t.requires_grad_() for t in (weight, mean, *rest)]
    assert gradcheck(lambda *a: soft_weight(*a, form), leaves)


@pytest.mark.parametrize("form", ["posterior", "paper"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_few_weights_are_exact_tails_included(form: str, dtype: torch.dtype, error: float) -> None:
    weight, mixture = layer(DIRECT // 8, 8, "heavy")
    weight = weight.to(dtype)
    upstream = torch.randn(DIRECT // 8, dtype=dtype)
    fast = [t.clone().requires_grad_() for t in (*mixture, torch.tensor(0.3, dtype=torch.float64))]
    slow = [t.detach().clone().requires_grad_() for t in fast]
    w = weight.clone().requires_grad_()
    out = soft_weight(w, *fast, form)
    out.backward(upstream)
    values, slopes = exact_gradients(weight, slow, form, upstream)
    torch.testing.assert_close(out.double(), values, rtol=error, atol=error * float(mixture[0].abs().max()))
    torch.testing.assert_close(w.grad.double(), slopes, rtol=error, atol=error * float(slopes.abs().max()))
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a.grad, b.grad, rtol=error, atol=error * float(b.grad.abs().max()))


def test_narrow_components_far_from_zero_are_exact_in_single_precision() -> None:
    torch.manual_seed(0)
    mean = torch.tensor([0.0, 9.99, 10.0, 10.02, -30.0])
    scale = torch.tensor([1.0, 0.005, 0.004, 0.006, 0.01])
    prior = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]).log()
    weight = torch.cat([torch.randn(200), 10 + 0.02 * torch.randn(2000), torch.tensor([-40.0, 200.0])])
    upstream = torch.randn(len(weight))
    slow = [t.double().requires_grad_() for t in (mean, scale, prior, torch.tensor(0.5))]
    fast = [t.detach().float().requires_grad_() for t in slow]
    w = weight.clone().requires_grad_()
    out = soft_weight(w, *fast)
    out.backward(upstream)
    values, slopes = exact_gradients(weight, slow, "posterior", upstream)
    assert (out - values).abs().max() < 1e-5
    assert (w.grad - slopes).norm() < 1e-3 * slopes.norm()
    for a, b in zip(fast, slow):
        assert (a.grad - b.grad).norm() < 1e-3 * b.grad.norm()


@pytest.mark.parametrize("form", ["posterior", "paper"])
@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("count", [500, 100_000])
def test_outliers_belong_to_the_outermost_component(form: str, temperature: float, count: int) -> None:
    torch.manual_seed(1)
    weight = 0.05 * torch.randn(count)
    mean = torch.tensor([0.0, -0.06, 0.05, 0.09])
    scale = torch.tensor([0.03, 0.01, 0.05, 0.002])  # the broadest is neither of the outermost
    prior = torch.tensor([0.7, 0.1, 0.19, 0.01]).log()
    weight[:4] = torch.tensor([-0.5, 0.5, -50.0, 50.0])
    soft = soft_weight(weight, mean, scale, prior, temperature, form)
    top = (1.0 / temperature) / (1.0 / temperature + 3) if form == "paper" and temperature > 0.1 else 1.0
    if top == 1.0:
        torch.testing.assert_close(soft[:4], torch.tensor([-0.06, 0.09, -0.06, 0.09]), rtol=1e-3, atol=0)
    hard = mean[regions(mean, scale, prior).assign(weight)]
    torch.testing.assert_close(hard[:4], torch.tensor([-0.06, 0.09, -0.06, 0.09]))


def test_equal_scales_make_the_tails_the_plain_posterior() -> None:
    mean, prior = torch.tensor([0.0, -1.0, 2.0]).double(), torch.tensor([0.5, 0.2, 0.3]).log().double()
    weight = torch.linspace(-5, 6, 301, dtype=torch.float64)
    plain = ((prior - (weight[:, None] - mean) ** 2 / (2 * 0.4**2)) / 0.7).softmax(1) @ mean
    torch.testing.assert_close(soft_weight(weight, mean, torch.full((3,), 0.4), prior, 0.7), plain)


def test_regions_agree_with_the_largest_log_density() -> None:
    torch.manual_seed(0)
    for _ in range(60):
        components = int(torch.randint(2, 17, ()))
        mean, scale = torch.randn(components).double(), (torch.rand(components) * 0.5 + 0.02).double()
        prior = 2 * torch.randn(components).double()
        weight = torch.cat([3 * torch.randn(5000), torch.tensor([-1e3, 1e3])]).double()
        logs = Mixture(mean, scale, prior, torch.tensor(1.0), False).log_density(weight)[0]
        owner = regions(mean, scale, prior).assign(weight)
        lost = logs.max(1).values - logs.gather(1, owner[:, None]).squeeze(1)
        assert (lost > 1e-6).double().mean() < 2e-3 and lost.max() < 0.05
        assert owner[-2] == mean.argmin() and owner[-1] == mean.argmax()


@pytest.mark.parametrize("count", [100, 100_000])
def test_odd_weights(count: int) -> None:
    mixture = torch.tensor([0.0, -1.0, 1.0]), torch.full((3,), 0.2), torch.zeros(3)
    same = torch.full((count,), 0.7, requires_grad=True)
    soft_weight(same, *mixture, 0.1).sum().backward()
    torch.testing.assert_close(same.detach(), torch.full((count,), 0.7))
    assert same.grad.isfinite().all()
    broken = torch.randn(count)
    broken[3] = torch.nan
    seen = soft_weight(broken.requires_grad_(), *mixture, 0.1)
    assert seen.isnan()[3]  # seen by the loss, not hidden
    seen[4:].sum().backward()
    assert broken.grad[3].isnan()
    far = torch.full((count,), 1e6)
    torch.testing.assert_close(soft_weight(far, *mixture, 0.1), torch.ones(count))
    straight = soft_weight(broken, *mixture, 0.1, straight=True)
    assert straight.isnan().nonzero().tolist() == [[3]] and set(straight[4:].tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(soft_weight(far, *mixture, 0.1, straight=True), torch.ones(count))


@pytest.mark.usefixtures("table")
def test_shape_type_and_autocast() -> None:
    weight, mixture = layer(6000, 4, "normal")
    shaped = weight.reshape(10, 600).t().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = soft_weight(shaped, *mixture, 0.3)
    assert out.shape == (600, 10) and out.dtype == torch.float32
    torch.testing.assert_close(out.t().reshape(-1), soft_weight(weight, *mixture, 0.3))
    out.backward(torch.ones(10, 600).t())
    assert shaped.grad.shape == (600, 10)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("room", [1 << 22, 2 * 256 * 4])  # all at once, or two and two
@pytest.mark.parametrize(("form", "temperature"), [("posterior", 0.5), ("posterior", 1e-3), ("paper", 0.01)])
def test_layers_together_are_each_alone(
    monkeypatch: pytest.MonkeyPatch, form: str, temperature: float, room: int, straight: bool
) -> None:
    monkeypatch.setattr(soft_table, "ROOM", room)
    shapes = {
        "normal": (700, 7),
        "heavy": (30, 40, 3, 3),
        "narrow": (5000,),
        "all zero": (2500,),
        "broken": (2500,),
    }
    weights, mixtures = [], []
    for number, (name, shape) in enumerate(shapes.items()):
        count = torch.Size(shape).numel()
        weight, mixture = layer(count, 4, "heavy" if name == "heavy" else "normal", number)
        factor = {"narrow": 1e-3, "all zero": 0.0}.get(name, 3.0**number)
        weight = weight * factor
        weight[7] = torch.nan if name == "broken" else weight[7]
        weights.append(weight.reshape(shape))
        mixtures.append([mixture[0] * (factor or 1.0), mixture[1] * (factor or 1.0), mixture[2]])
    together = [torch.stack(parts).requires_grad_() for parts in zip(*mixtures)]
    temperatures = torch.full((len(weights),), temperature, dtype=torch.float64, requires_grad=True)
    latent = [weight.clone().requires_grad_() for weight in weights]
    found = look_ups(latent, *together, temperatures, form, straight=straight)
    upstream = [torch.randn_like(weight) for weight in weights]
    outs = [look_up(weight) for look_up, weight in zip(found, latent)]
    torch.autograd.backward(outs[:-1], upstream[:-1])  # the last layer's answer is not used
    for number, (weight, mixture) in enumerate(zip(weights, mixtures)):
        single = [part.clone().requires_grad_() for part in (weight, *mixture)]
        own = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        out = soft_weight(*single, own, form, straight=straight)
        torch.testing.assert_close(
            outs[number], out, rtol=1e-6, atol=1e-6 * float(mixture[0].abs().max()), equal_nan=True
        )
        if number == len(weights) - 1:
            assert latent[number].grad is None and not any(part.grad[number].any() for part in together)
            continue
        out.backward(upstream[number])
        mine = [latent[number].grad, *(part.grad[number] for part in together), temperatures.grad[number]]
        for a, b in zip(mine, (*(part.grad for part in single), own.grad), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


@pytest.mark.usefixtures("table")
def test_many_layers_cost_hardly_more_operations_than_one() -> None:
    class Counted(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, operation, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            self.operations += not operation.is_view
            return operation(*arguments, **(named or {}))

    def operations(layers: int) -> int:
        weights, mixtures = zip(*(layer(5000, 4, "heavy", seed) for seed in range(layers)))
        together = [torch.stack(parts).requires_grad_() for parts in zip(*mixtures)]
        with Counted() as counted:
            found = look_ups(weights, *together, torch.full((layers,), 0.5), straight=True)
            torch.autograd.backward([look_up.at_knots.sum() for look_up in found])
        return counted.operations

    one, nine = operations(1), operations(9)
    assert nine < 2.5 * one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    weight, mixture = layer(100_000, 16, "heavy")
    upstream = torch.randn_like(weight)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().to(device).requires_grad_() for t in (weight, *mixture)]
        out = soft_weight(*leaves, 0.05)
        out.backward(upstream.to(device))
        results.append([out.detach().cpu(), *(t.grad.cpu() for t in leaves)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
