"""Views, permutations and what they become in a stored tensor, against PyTorch's own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import execute
from deploy_arm.lowering.layout import places, usual, viewed
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.operators.movement import channel_shuffle, permute


def lowering(shape: tuple[int, int, int]) -> tuple[Lowering, Value]:
    """A translation whose only value so far is a tensor stored as (height, width, channels)."""
    height, width, channels = shape
    image = g.Tensor("x", shape, 1.0, -128, 127)
    state = Lowering(g.Graph(image, "", {"x": image}), None, {}, {}, 2, fx.Graph().placeholder("moved"))
    return state, Value(image, (channels, height, width))


def elements(state: Lowering, value: Value, stored: np.ndarray) -> np.ndarray:
    """The value's elements in PyTorch's order, by what the emitted operations do to ``stored`` [1, H, W, C]."""
    values = {"x": stored}
    for op in state.graph.operations:
        types = [state.graph.tensors[name] for name in (*op.inputs, op.output)]
        values[op.output] = execute(op, [values[op.inputs[0]]], types)
    assert isinstance(value.content, g.Tensor)
    return values[value.content.name][0].transpose(2, 0, 1).reshape(value.shape)


def split(size: int) -> list[tuple[int, int]]:
    return [(size // other, other) for other in range(1, size + 1) if size % other == 0]


@st.composite
def steps(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[tuple[str, int, int]]]:
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4, 6, 12])))
    kinds = st.sampled_from(["split", "merge", "permute"])
    return shape, draw(st.lists(st.tuples(kinds, st.integers(0, 50), st.integers(0, 50)), max_size=5))


def apply(kind: str, first: int, second: int, x: Tensor) -> Tensor | list[int]:
    """A new shape, or for a permutation its dimensions; ``x`` has no batch."""
    shape = list(x.shape)
    if kind == "permute":
        dims = list(range(x.ndim))
        dims[first % x.ndim], dims[second % x.ndim] = dims[second % x.ndim], dims[first % x.ndim]
        return dims
    axis = first % x.ndim
    if kind == "split":
        parts = split(shape[axis])
        return x.reshape(*shape[:axis], *parts[second % len(parts)], *shape[axis + 1 :])
    if x.ndim == 1:
        return x
    axis = first % (x.ndim - 1)
    return x.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


@given(steps())
@settings(max_examples=300, deadline=None)
def test_what_views_and_permutations_lead_to_is_pytorchs(
    example: tuple[tuple[int, int, int], list[tuple[str, int, int]]],
) -> None:
    shape, chain = example
    state, value = lowering(shape)
    height, width, channels = shape
    stored = np.arange(height * width * channels, dtype=np.int32).reshape(1, *shape)
    wanted = torch.from_numpy(stored[0]).permute(2, 0, 1)
    try:
        for kind, first, second in chain:
            result = apply(kind, first, second, wanted)
            if isinstance(result, list):
                wanted = wanted.permute(result)
                value = permute(state, value, [0, *(axis + 1 for axis in result)])
            else:
                wanted = result
                value = state.reshaped(value, tuple(result.shape))
            assert value.shape == wanted.shape
        value = state.plain(value)
    except Unsupported:
        return
    assert value.strides is None
    assert np.array_equal(elements(state, value, stored), wanted.numpy())


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_a_shuffle_is_one_operation_at_most(groups: int, share: int, height: int, width: int) -> None:
    channels = groups * share
    state, value = lowering((height, width, channels))
    stored = np.arange(height * width * channels, dtype=np.int32).reshape(1, height, width, channels)
    x = torch.from_numpy(stored).permute(0, 3, 1, 2).float()
    value = state.plain(channel_shuffle(state, value, groups))
    assert np.array_equal(
        elements(state, value, stored), torch.nn.functional.channel_shuffle(x, groups)[0].numpy()
    )
    assert len(state.graph.operations) == int(groups > 1 and share > 1)


def test_channels_last_moves_nothing() -> None:
    state, value = lowering((3, 4, 6))
    last = permute(state, value, [0, 2, 3, 1])
    assert last.shape == (3, 4, 6) and last.strides == (24, 6, 1)
    assert state.reshaped(last, (12, 6)).strides == (6, 1)
    assert permute(state, last, [0, 3, 1, 2]) == value and not state.graph.operations
    flat = state.plain(state.reshaped(last, (72,)))
    assert [type(op) for op in state.graph.operations] == [g.Reshape] and flat.stored == (1, 1, 72)


def test_strides_of_the_usual_order() -> None:
    assert usual((6, 3, 4), (3, 4, 6)) == (1, 24, 6)
    assert usual((72,), (3, 4, 6)) is None and usual((6,), (1, 1, 6)) == (1,)
    assert viewed((6, 12), (1, 6), (2, 3, 12)) == (3, 1, 6)
    assert places((2, 2), (1, 6)).tolist() == [[0, 6], [1, 7]]
