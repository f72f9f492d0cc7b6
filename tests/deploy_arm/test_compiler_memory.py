"""The memory plan: nothing that lives at the same time overlaps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_arm.blob.memory import ALIGNMENT, plan_memory, tensor_bytes
from deploy_arm.ir import graph as g


@st.composite
def graphs(draw: st.DrawFn) -> g.Graph:
    """Random chains, branches and reshapes; only shapes and readers matter here."""
    image = g.Tensor("t0", (draw(st.integers(1, 9)), draw(st.integers(1, 9)), 3))
    graph = g.Graph(image, "t0", {"t0": image})
    for number in range(1, draw(st.integers(1, 14)) + 1):
        name, names = f"t{number}", list(graph.tensors)
        source = draw(st.sampled_from(names[-4:]))
        choice = draw(st.integers(0, 3))
        if choice == 0 and not graph.tensors[source].floating:
            height, width, channels = graph.tensors[source].shape
            tensor = g.Tensor(name, (1, 1, height * width * channels))
            operation: g.Operation = g.Reshape((source,), name, "")
        else:
            shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 40)))
            tensor = g.Tensor(name, shape, floating=draw(st.booleans()))
            other = draw(st.sampled_from(names))
            inputs = (source, other) if choice == 1 else (source,)
            operation = g.Add(inputs, name, "", (1, 1), 1, 0, 255)
        graph.tensors[name] = tensor
        graph.operations.append(operation)
        graph.output = name
    return graph


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_running_in_the_planned_memory_never_destroys_a_value_still_needed(graph: g.Graph) -> None:
    plan = plan_memory(graph)
    owner: dict[int, str] = {}  # byte address to the value that lies there

    def region(name: str) -> range:
        start = plan.offsets[name]
        assert start % ALIGNMENT == 0 and start + tensor_bytes(graph.tensors[name]) <= plan.size
        return range(start, start + tensor_bytes(graph.tensors[name]))

    value = {graph.input.name: graph.input.name}  # a reshape holds the value of its input
    owner.update(dict.fromkeys(region(graph.input.name), graph.input.name))
    for operation in graph.operations:
        for name in operation.inputs:
            assert all(owner.get(address) == value[name] for address in region(name))
        if isinstance(operation, g.Reshape):
            assert plan.offsets[operation.output] == plan.offsets[operation.inputs[0]]
            value[operation.output] = value[operation.inputs[0]]
            continue
        value[operation.output] = operation.output
        output = region(operation.output)
        for name in operation.inputs:
            assert not set(output) & set(region(name))
        owner.update(dict.fromkeys(output, operation.output))
    assert all(owner[address] == value[graph.output] for address in region(graph.output))


def test_a_chain_needs_only_its_two_largest_neighbours() -> None:
    image = g.Tensor("t0", (8, 8, 3))
    graph = g.Graph(image, "t3", {"t0": image})
    for number, channels in enumerate((16, 32, 4), 1):
        name = f"t{number}"
        graph.tensors[name] = g.Tensor(name, (8, 8, channels))
        graph.operations.append(g.Pad((f"t{number - 1}",), name, "", (0, 0, 0), (0, 0, 0)))
    assert plan_memory(graph).size == 64 * (16 + 32)
