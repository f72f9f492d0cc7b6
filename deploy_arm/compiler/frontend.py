"""From a PyTorch network to the integer graph: ``torch.export``, then one handler per operator in execution order."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from deploy_arm.compiler.passes import simplify
from deploy_arm.ir import graph as g
from deploy_arm.lowering.float_lowering import FloatLowering
from deploy_arm.lowering.pending import Function, Pending, output
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.operators.base import ANY_LAYOUT, OPERATORS
from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.modes import evaluating
from quantizers.network import Hardened

BATCH = 2  # not 1, so that nothing can mistake the batch for an axis of size one


def _export(network: nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    example = torch.zeros(BATCH, *input_shape, device=device)
    with evaluating(network), torch.no_grad():
        try:
            return torch.export.export(network, (example,))
        except (
            Exception
        ) as error:  # export fails in as many ways as a forward does; all mean the same to the person
            reason = str(error).strip().splitlines()
            raise UserError(
                f"the model cannot be exported for an input of shape {tuple(input_shape)} "
                f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}); "
                "the forward must run on this image size and take no decision on values"
            ) from error


def _layer(node: fx.Node) -> str:
    """Path of the module that the node comes from; the node's own name at the top level."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path or node.name


def _arguments(state: Lowering, node: fx.Node, *, any_layout: bool) -> dict[str, Any]:
    """Arguments by schema name, defaults filled in, nodes replaced by their values (parameters stay nodes), which have the
    usual order of elements unless the handler takes ``any_layout``."""

    def resolve(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            found = state.values.get(argument, argument)
            return state.plain(found) if isinstance(found, Value) and not any_layout else found
        if isinstance(argument, list | tuple):
            return [resolve(item) for item in argument]
        return argument

    schema = getattr(node.target, "_schema", None)
    if schema is None:  # operator.getitem
        return {"items": resolve(node.args[0]), "index": node.args[1]}
    found: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        name = "input" if argument.name == "self" else argument.name
        if position < len(node.args):
            found[name] = resolve(node.args[position])
        else:
            found[name] = resolve(node.kwargs.get(argument.name, argument.default_value))
    return found


def _overwritten(node: fx.Node) -> fx.Node | None:
    """The variable that an operation changes in place."""
    changed = node.args[0] if node.args else None
    in_place = str(getattr(node.target, "_opname", "")).endswith("_")
    return changed if in_place and isinstance(changed, fx.Node) else None


def _is_view(node: fx.Node) -> bool:
    """Whether the result shares the memory of what it is made from."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return _is_view(node.args[0])
    schema = getattr(node.target, "_schema", None)
    found = [result.alias_info for result in schema.returns] if schema is not None else []
    return any(alias is not None and not alias.is_write for alias in found)


def _translate(state: Lowering, node: fx.Node) -> None:
    """One operator into ``state.values``.

    Raises:
        UserError: it is not supported; the message names the operator and the layer.
    """
    state.node, state.layer = node, _layer(node)
    name = state.operator
    try:
        arguments = _arguments(state, node, any_layout=name in ANY_LAYOUT)
        known = [isinstance(arguments.get(key), Value) for key in ("input", "other")]
        if isinstance(arguments.get("input"), fx.Node) and not (name in ("add", "mul") and any(known)):
            raise Unsupported("it computes with weights alone while the network runs")
        changed = _overwritten(node)
        if changed is not None and any(
            _is_view(other) for other in (changed, *changed.users) if other in state.values
        ):
            raise Unsupported(
                "it overwrites a part of a tensor, or one that has views; write without in-place operations"
            )
        value = OPERATORS[name](state, **arguments)
    except Unsupported as error:
        raise UserError(
            f"operator {name} in layer {state.layer} is not supported on ARM: {error} (docs/operators.md)"
        ) from error
    if isinstance(value, Value) and len(node.users) > 1:
        value = state.shared(value)
    state.values[node] = value
    if changed is not None:
        state.values[changed] = value  # later readers of the variable see the change


def _refuse_unknown(state: Lowering, graph: fx.Graph) -> None:
    """Refuse operators that have no handler, all of them at once, before any other is translated.

    Raises:
        UserError: there are some; the message names each with its layers.
    """
    unknown: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            state.node = node
            if (name := state.operator) not in OPERATORS:
                unknown.setdefault(name, {})[_layer(node)] = None
    if unknown:
        told = [
            f"operator {name} in layer{'s' if len(at) > 1 else ''} {', '.join(at)}"
            for name, at in unknown.items()
        ]
        raise UserError(
            f"{'; '.join(told)} {'is' if len(told) == 1 else 'are'} not supported on ARM; docs/operators.md says which are. "
            "Replace it in the model, or choose another model"
        )


def check_operators(network: nn.Module, input_shape: Sequence[int]) -> None:
    """Refuse a network, as it was given, that has operators without a handler.

    Raises:
        UserError: it has, or cannot be exported at all; the message names every operator with its layers.
    """
    channels, height, width = input_shape
    graph = g.Graph(g.Tensor("image", (height, width, channels)), "", {})
    _refuse_unknown(Lowering(graph, None, {}, {}, BATCH), _export(network, input_shape).graph)


def _translate_all(
    network: nn.Module,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    codebooks: Mapping[str, Codebook] | None,
    kind: type[Lowering] = Lowering,
) -> g.Graph:
    if len(input_shape) != 3:
        raise UserError(f"input shape {tuple(input_shape)}: give (channels, height, width)")
    channels, height, width = input_shape
    if not len(mean) == len(std) == channels:
        raise UserError(
            f"normalization with {len(mean)} means and {len(std)} deviations for {channels} channels"
        )
    if not (np.isfinite([*mean, *std]).all() and all(value > 0 for value in std)):
        raise UserError(
            f"normalization by mean {list(mean)} and std {list(std)}: give finite means and deviations above 0"
        )
    exported = _export(network, input_shape)
    signature = exported.graph_signature
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**exported.constants, **exported.state_dict}
    parameters = {name: tensors[target] for name, target in targets.items()}
    layers = {name: target.rpartition(".")[0] for name, target in targets.items()}
    image = g.Tensor("image", (height, width, channels))
    graph = g.Graph(image, "", {image.name: image})
    state = kind(graph, codebooks, parameters, layers, BATCH)
    _refuse_unknown(state, exported.graph)
    result: fx.Node | None = None
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name not in parameters:
            state.values[node] = Value(_pixels(image, mean, std), (channels, height, width))
        elif node.op == "call_function":
            _translate(state, node)
        elif node.op == "output":
            outputs = node.args[0]
            if len(outputs) != 1 or not isinstance(state.values.get(outputs[0]), Value):
                raise UserError("the model must return one tensor that depends on the image")
            result = outputs[0]
    assert result is not None
    state.node, state.layer = result, _layer(result)
    graph.output = _final(state, state.values[result]).name
    return simplify(graph)


def _pixels(image: g.Tensor, mean: Sequence[float], std: Sequence[float]) -> Function:
    """The normalized value of each pixel byte by channel, in the float32 steps that training uses."""
    byte = np.arange(256, dtype=np.float32) / np.float32(255)
    values = (byte - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    return Function(name="input", layer="input", shape=image.shape, source=image, values=values)


def _final(state: Lowering, value: Value) -> g.Tensor:
    value = state.plain(value)
    content = value.content
    if state.floating:
        return state.integer(value)
    if len(value.shape) < 3 and value.stored[:2] != (1, 1):
        raise UserError(
            f"the model's output in layer {state.layer} is an image of shape {value.stored} flattened; return it as "
            "(N, C, H, W), and flatten it outside"
        )
    if isinstance(content, Pending):
        return content.dequantize(state)
    return output(state, content, state.layer)


def compile_graph(
    hardened: Hardened, input_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> g.Graph:
    """The integer graph of a hardened network. A result (N, C, H, W) leaves it in the order H, W, C.

    Args:
        hardened: a network whose activation quantizers are constant ``torch.fake_quantize_per_tensor_affine`` calls, and its
            codebooks by layer name.
        input_shape: (channels, height, width) of the images.
        mean: of the normalization ``(pixel / 255 - mean) / std``, per channel.
        std: likewise.

    Raises:
        UserError: an operator that is not supported (the message names it and its layer), sums that exceed 32 bits, or
            parameters that are not finite.
        ValueError: a quantizer is missing where the graph needs one.
    """
    return _translate_all(hardened.network, input_shape, mean, std, hardened.codebooks)


def compile_float(
    network: nn.Module, input_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> g.Graph:
    """The float32 graph of a network as it is (no quantizers); batch-norms are folded into what comes before.

    Arguments are ``compile_graph``'s. The network is not changed.

    Raises:
        UserError: an operator that has no float form (the message names it and its layer), or weights that are not finite.
    """
    return _translate_all(network, input_shape, mean, std, None, FloatLowering)
