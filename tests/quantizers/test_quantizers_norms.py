"""Statistics of batch-norms: changed by what quantization changed, and by nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from quantizers.calibration.norms import NormMatcher, channel_statistics


def trained() -> nn.Sequential:
    """A network whose statistics are of images that differ from all that it is shown here."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    network.train()
    for _ in range(30):
        network(3 * torch.randn(16, 3, 12, 12) + 1)
    return network.eval()


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, 12, 12, generator=generator) for size in sizes]


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items() if "running" in key}


def test_of_an_unchanged_network_they_stay_whatever_the_images_are() -> None:
    network = trained()
    before = statistics(network)
    seen = batches(7, 5, 1)
    NormMatcher(copy.deepcopy(network), lambda: seen).match(network)
    for key, value in statistics(network).items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(24,), (8, 8, 8)])
def test_scaled_and_shifted_channels_are_taken_back_exactly(sizes: tuple[int, ...]) -> None:
    original, seen = trained(), batches(*sizes)
    network = copy.deepcopy(original)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in (network[0], network[3], network[8]):
            layer.weight *= (
                torch.rand(len(layer.weight), *[1] * (layer.weight.dim() - 1), generator=generator) + 0.5
            )
        for layer in (network[0], network[8]):
            layer.bias += torch.randn(len(layer.bias), generator=generator)
        modes = [module.training for module in network.train().modules()]
        NormMatcher(original, lambda: seen).match(network)
        assert [module.training for module in network.modules()] == modes
        x = torch.randn(9, 3, 12, 12, generator=generator)  # any image: it is the same function
        torch.testing.assert_close(network.eval()(x), original(x), rtol=1e-4, atol=1e-4)


def test_behind_noise_in_weights_outputs_have_the_mean_and_variance_that_they_had() -> None:
    original, seen = trained(), batches(64)
    network = copy.deepcopy(original)
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in (network[0], network[3]):
            layer.weight += 0.3 * layer.weight.std() * torch.randn_like(layer.weight)
        off = [(network[:5](seen[0]).mean() - original[:5](seen[0]).mean()).abs()]
        NormMatcher(original, lambda: seen).match(network)
        found, wanted = (channel_statistics([net[:5](seen[0])]) for net in (network, original))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert off[0] > 1e-3


@pytest.mark.parametrize("sizes", [(62, 2), (1, 63), (20, 30, 14)])
def test_every_image_weighs_alike_however_large_its_batch_is(sizes: tuple[int, ...]) -> None:
    original = nn.Sequential(*list(trained())[:2]).eval()
    images = batches(64)[0] * torch.linspace(0.1, 3, 64)[:, None, None, None]
    network = copy.deepcopy(original)
    with torch.no_grad():
        network[0].weight += 0.3 * torch.randn(
            network[0].weight.shape, generator=torch.Generator().manual_seed(3)
        )
    found = []
    for parts in ([images], list(images.split(sizes))):
        NormMatcher(original, lambda parts=parts: parts).match(network)  # type: ignore[misc]
        found.append(statistics(network))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-5)


def test_a_norm_that_is_called_twice_and_one_without_statistics() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.free = nn.BatchNorm2d(3, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = self.free(self.norm(self.layer(self.norm(self.layer(x)))))
            return value

    torch.manual_seed(0)
    original = Twice().eval()
    network, seen = copy.deepcopy(original), batches(4, 4)
    assert network.layer.bias is not None
    NormMatcher(original, lambda: seen).match(network)
    assert torch.equal(network.norm.running_mean, original.norm.running_mean)
    with torch.no_grad():
        network.layer.bias += 1.0
    NormMatcher(original, lambda: seen).match(network)
    # The first call sees what the shift adds, the second the shift of what was taken back: the mean of both.
    torch.testing.assert_close(network.norm.running_mean - original.norm.running_mean, torch.full((3,), 1.0))


def test_a_channel_that_is_silent_in_one_batch_keeps_its_statistics() -> None:
    """There the fp32 network says nothing of it, and what rounding makes of nothing is no measure."""
    network = nn.Sequential(nn.BatchNorm2d(2)).eval()
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(16, 2, 4, 4, generator=generator)
    second = first.clone()
    second[:, 1] = 0.25  # constant
    norm = network[0]
    norm.running_mean.copy_(first.mean((0, 2, 3)))
    norm.running_var.copy_(first.var((0, 2, 3)))
    rounded = [batch + 1e-3 * torch.randn(batch.shape, generator=generator) for batch in (first, second)]
    batches = iter([[first, second], rounded])
    matcher = NormMatcher(network, lambda: next(batches))
    made = copy.deepcopy(network)
    matcher.match(made)
    torch.testing.assert_close(made[0].running_var, norm.running_var, rtol=1e-2, atol=0)
    torch.testing.assert_close(made[0].running_mean, norm.running_mean, rtol=0, atol=1e-2)


def test_a_network_without_norms_is_not_run() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    def images() -> list[Tensor]:
        raise AssertionError("there is nothing to fit")

    NormMatcher(network, images).match(copy.deepcopy(network))
