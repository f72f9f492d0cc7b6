"""Normalization whose statistics are taken while the network runs: over the channels of each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy_arm.lowering.layout import last_is_channels
from deploy_arm.lowering.pending import LayerNormalization
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.operators.base import register

MOST_CHANNELS = 2**15  # for which the sums of graph.LayerNorm fit


@register("layer_norm", any_layout=True)
def layer_norm(
    state: Lowering,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Any,
    bias: Any,
    eps: float,
    *,
    cudnn_enable: bool,
) -> Value:
    if state.floating:
        raise Unsupported("float programs know no normalization whose statistics are taken while they run")
    channels = input.stored[2]
    over_channels = last_is_channels(input.shape, state.strides(input), channels)
    if len(normalized_shape) != 1 or not over_channels or channels > MOST_CHANNELS:
        raise Unsupported(
            f"normalization of shape {('N', *input.shape)} over {tuple(normalized_shape)}; it must be over all channels, at most "
            f"{MOST_CHANNELS}, as the last dimension"
        )
    tensor, scale, shift = state.integer(input), state.parameter(weight), state.parameter(bias)
    content = LayerNormalization(
        name=state.name,
        layer=state.layer,
        shape=tensor.shape,
        source=tensor,
        scale=np.ones(channels) if scale is None else scale,
        shift=np.zeros(channels) if shift is None else shift,
        epsilon=eps,
    )
    return input.holding(content)
