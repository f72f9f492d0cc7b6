"""Where activation quantizers go, on networks whose places were worked out by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from quantizers.core.placement import placements

torch.set_num_threads(1)


def places(model: nn.Module) -> dict[str, str]:
    """Node name to ``signed`` or ``unsigned``, in execution order."""
    network = fx.symbolic_trace(model.eval())
    return {p.node.name: "signed" if p.signed else "unsigned" for p in placements(network)}


def conv(*channels: int, **rest: int) -> nn.Conv2d:
    return nn.Conv2d(*channels, kernel_size=3, padding=1, **rest)


def test_resnet18() -> None:
    found = places(torchvision.models.resnet18())
    expected = {"x": "signed", "relu": "unsigned"}
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{stage}_{block}"
            if stage > 1 and block == 0:
                expected |= {f"{prefix}_relu": "unsigned", f"{prefix}_bn2": "signed"}
                expected |= {f"{prefix}_downsample_1": "signed", f"{prefix}_relu_1": "unsigned"}
            else:
                expected |= {
                    f"{prefix}_relu": "unsigned",
                    f"{prefix}_bn2": "signed",
                    f"{prefix}_relu_1": "unsigned",
                }
    expected |= {"avgpool": "unsigned"}
    assert found == expected


def test_resnet50_has_one_place_per_convolution_sum_input_and_pool() -> None:
    found = places(torchvision.models.resnet50())
    blocks, projections = 16, 4
    # Input, stem, then of each block two rectified convolutions, the third before the sum and the sum; pool.
    assert len(found) == 2 + 4 * blocks + projections + 1
    assert list(found.values()).count("signed") == 1 + blocks + projections


def test_mobilenet_v2() -> None:
    model = torchvision.models.mobilenet_v2()
    found = places(model)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert (
        len(found) == 1 + convolutions + 10 + 1
    )  # ten residual sums, one pool; the classifier is the output
    clipped = sum(isinstance(m, nn.ReLU6) for m in model.modules())
    assert list(found.values()).count("unsigned") == clipped + 1  # and the pool of such
    assert found["add"] == "signed" and found["adaptive_avg_pool2d"] == "unsigned"


def test_vgg11() -> None:
    found = places(torchvision.models.vgg11())
    assert list(found.values()) == ["signed"] + 11 * ["unsigned"]  # 8 convolutions, pool, 2 linear layers
    assert "features_2" not in found  # max pooling keeps its step


class Leaky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 4), conv(4, 5)
        self.norm, self.leaky, self.act = nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.leaky(self.norm(self.conv1(x))), 2)
        x = torch.sigmoid(self.act(self.conv2(x)))
        return self.conv3(x).mean([2, 3])


def test_other_activation_functions_are_tables() -> None:
    assert places(Leaky()) == {
        "x": "signed",
        "norm": "signed",
        "leaky": "signed",
        "conv2": "signed",
        "act": "signed",
        "sigmoid": "unsigned",
        "conv3": "signed",
    }  # the mean is the output


class Joins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(3, 4), conv(12, 4)
        self.relu, self.drop, self.pool = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.AvgPool2d(2)
        self.flat, self.fc = nn.Flatten(), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.conv1(x))
        b = F.relu6(self.conv2(x))
        c = a + b
        c += a
        d = torch.cat([a, b, c], dim=1)
        e = self.relu(self.conv3(self.drop(d)))
        e = F.pad(self.pool(e), (1, 1, 1, 1))[:, :, ::1, 1:5]
        return self.fc(F.relu(self.flat(e)[:, :64]))


def test_concatenation_sums_pools_and_what_moves() -> None:
    found = places(Joins())
    assert list(found) == ["x", "relu", "relu6", "add", "add_1", "cat", "relu_1", "pool"]
    assert all(sign == "unsigned" for name, sign in found.items() if name != "x")


class OptionA(nn.Module):
    """A block of the CIFAR ResNets whose shortcut takes every second pixel and pads channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 4), conv(4, 8, stride=2)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        out = F.relu(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


@pytest.mark.parametrize(
    "combined",
    [
        lambda a, b: torch.add(a, b, alpha=-1), lambda a, b: a.add(b, alpha=-0.5), lambda a, b: torch.add(a, other=-1) + b,
    ],
)  # fmt: skip
def test_a_factor_below_zero_may_make_a_sum_negative(combined: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = conv(3, 4), conv(3, 4), conv(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(combined(F.relu(self.one(x)), F.relu(self.two(x))))

    assert list(places(Two()).values())[-1] == "signed"


def test_option_a_shortcut() -> None:
    found = places(OptionA())
    assert found == {
        "x": "signed",
        "relu": "unsigned",
        "bn2": "signed",
        "relu_1": "unsigned",
        "avg_pool2d": "unsigned",
    }


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = conv(3, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.last(operator.add(y, F.relu(y)))


def test_a_rectifier_is_absorbed_only_when_nobody_else_reads() -> None:
    found = places(TwoReaders())
    assert found["norm"] == "signed" and found["add"] == "signed" and "last" not in found


@pytest.mark.parametrize("end", [nn.Identity(), nn.Flatten(1), nn.Dropout(0.1)])
def test_the_output_is_left_alone(end: nn.Module) -> None:
    assert places(nn.Sequential(conv(3, 4), nn.ReLU(), end)) == {"input_1": "signed"}


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = conv(3, 4), conv(4, 2), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(F.relu(self.conv(x)), scale_factor=2.0)
        first = self.first(x)
        return torch.cat((first, torch.relu(self.second(x)), F.max_pool2d(first, 1)), 1).contiguous()


def test_branches_concatenated_at_the_end_are_left_alone() -> None:
    # but for the one that is read elsewhere; resizing keeps the step
    assert places(Branches()) == {"x": "signed", "relu": "unsigned", "first": "signed"}


def test_squeeze_and_excitation() -> None:
    found = places(torchvision.ops.SqueezeExcitation(8, 4, scale_activation=nn.Hardsigmoid))
    # the average, the rectified and the plain convolution, and the scale as a table; the product is the output
    assert found == {
        "input_1": "signed",
        "avgpool": "signed",
        "activation": "unsigned",
        "fc2": "signed",
        "scale_activation": "unsigned",
    }


class ChannelsLast(nn.Module):
    """A channel shuffle, then a layer norm and a linear layer where channels are the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = conv(3, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.wide, self.narrow, self.last = nn.Linear(8, 16), nn.Linear(16, 8), conv(8, 2)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x.view(x.shape[0], 2, 4, x.shape[2], x.shape[3]).transpose(1, 2).contiguous().flatten(1, 2)
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        y = F.relu(self.other((x + y).permute(0, 2, 3, 1)))
        return self.last(y.permute(0, 3, 1, 2))


def test_layer_norms_take_a_rectifier_in_and_permutations_keep_the_step() -> None:
    assert places(ChannelsLast()) == {
        "x": "signed",
        "relu": "unsigned",
        "norm": "signed",
        "wide": "signed",
        "gelu": "signed",
        "narrow": "signed",
        "mul": "signed",
        "add": "signed",
        "relu_1": "unsigned",
    }
