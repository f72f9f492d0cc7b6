"""In-place writes of a traced network, turned into values: who reads an overwritten tensor later reads what was written.

``torch.fx`` records the operations of a forward in their order, but not which tensors share memory. Here that is followed in
program order: every node stands for a tensor, a view for a part of another. A write becomes an operation with a result of its
own, and from then on the tensor, what it is a view of, and all other views of that are read from the result. Where it cannot be
known whether two tensors share memory, or how a part goes back into the whole, a later read is refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from foundation.errors import UserError
from quantizers.tracing.memory import (
    RESHAPE,
    SAME,
    SHAPES,
    SPLITTING,
    asks_for_shape,
    channels_of,
    first_input,
    layer_of,
    make_pure,
    operation_of,
    overwritten,
    parts_of,
    shares,
    span,
    span_of,
)


@dataclass(eq=False)
class _Tensor:
    """A tensor of the forward. ``value`` is the node that holds it now, or says why none does."""

    value: fx.Node | str
    source: _Tensor | None = None  # what it is a view of, by the operation ``view``
    view: fx.Node | None = None
    sure: bool = True  # whether it shares the source's memory whatever the layout and the mode
    views: list[_Tensor] = field(default_factory=list)

    @property
    def root(self) -> _Tensor:
        return self if self.source is None else self.source.root


def without_writes(network: fx.GraphModule) -> None:
    """Change a traced network so that no operation overwrites its input; it computes the same in evaluation and in training.

    Raises:
        UserError: a write whose effect on what is read later cannot be followed; the message names the layer.
    """
    _Rewriting(network).run()
    network.graph.lint()
    network.recompile()


class _Rewriting:
    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.graph = network, network.graph
        self.tensors: dict[fx.Node, _Tensor] = {}
        self.made: list[fx.Node] = []  # what may be dropped where nobody reads it
        self.inplace: list[nn.Module] = []

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._follow(node)
        for module in self.inplace:
            module.inplace = False  # type: ignore[assignment]
        for node in reversed(self.made):
            if not node.users:
                self.graph.erase_node(node)

    def _follow(self, node: fx.Node) -> None:
        name, source = self._operation(node), first_input(node)
        if asks_for_shape(node, name):
            self.tensors[node] = _Tensor(node)
            return
        own = self.tensors[source] if source is not None else None
        written = overwritten(self.network, node, name)
        if node.op == "call_module" and getattr(
            self.network.get_submodule(str(node.target)), "inplace", False
        ):
            self.inplace.append(self.network.get_submodule(str(node.target)))
        if node.target is operator.setitem:
            self._set_item(node)
            return
        node.args = fx.map_arg(node.args, lambda read: self._read(read, node))
        node.kwargs = fx.map_arg(node.kwargs, lambda read: self._read(read, node))
        if written is not None:
            tensor = self.tensors[written]
            self._check_write(tensor, node)
            make_pure(node, name)
            self.tensors[node] = tensor
            self.cursor = node
            self._write(tensor, node, node)
            if node.op != "call_module":
                self.made.append(node)
            return
        shared = shares(node, name) if own is not None else None
        if own is None or shared is None:
            self.tensors[node] = _Tensor(node)
            return
        self.tensors[node] = tensor = _Tensor(node, own, node, shared)
        own.views.append(tensor)
        if node.op != "call_module":
            self.made.append(node)

    def _read(self, read: fx.Node, reader: fx.Node) -> fx.Node:
        value = self.tensors[read].value
        if isinstance(value, str):
            raise UserError(f"layer {layer_of(reader)} reads {value}")
        return value

    def _operation(self, node: fx.Node) -> str:
        return operation_of(self.network, node)

    def _check_write(self, tensor: _Tensor, node: fx.Node) -> None:
        root = tensor.root.value
        if isinstance(root, fx.Node) and root.op == "get_attr":
            raise UserError(
                f"layer {layer_of(node)} overwrites {root.target}, a parameter or buffer of the model, while it runs; "
                "compute with a copy of it"
            )

    # How a write spreads

    def _write(self, tensor: _Tensor, value: fx.Node, by: fx.Node) -> None:
        tensor.value = value
        if self._operation(by) in {name[:-1] for name in RESHAPE} and by.op == "call_method":
            if tensor.source is not None or tensor.views:
                self._spoil(tensor.root, tensor, by, "whose shape it changes")
            return
        child = tensor
        while child.source is not None:
            parent = child.source
            if not child.sure:
                self._spoil(
                    parent,
                    child,
                    by,
                    f"through {self._made_by(child)}, which may or may not share its memory",
                )
                break
            before = parent.value
            if self._is_split(parent):  # its parts are written one by one: the whole is what was split
                whole = parent.source
                assert whole is not None
                whole_value = self._joined(child, parent)
                others = [view for view in whole.views if view is not parent]
                parent_views = [
                    v for v in parent.views if v is not child and self._index(v) == self._index(child)
                ]
                if whole_value is None:
                    self._spoil(whole, child, by, f"in part, through {self._made_by(parent)}")
                    break
                whole.value = whole_value
                parent.value = self._again(parent)
                for view in (*others, *parent_views):
                    self._refresh(view, by)
                child = whole
                continue
            back = self._put_back(child, before)
            if back is None:
                self._spoil(parent, child, by, f"in part, through {self._made_by(child)}")
                break
            parent.value = back
            for view in parent.views:
                if view is not child:
                    self._refresh(view, by)
            child = parent
        for view in tensor.views:
            self._refresh(view, by)

    def _made_by(self, tensor: _Tensor) -> str:
        assert tensor.view is not None
        return self._operation(tensor.view)

    def _spoil(self, root: _Tensor, kept: _Tensor, by: fx.Node, how: str) -> None:
        """Whoever reads these tensors, other than the one written, is refused."""
        reason = f"a tensor that layer {layer_of(by)} overwrites {how}; do not write in place there"
        for tensor in (*_family(root, kept), *_sources(root)):
            if tensor is not kept:
                tensor.value = reason

    def _refresh(self, view: _Tensor, by: fx.Node) -> None:
        """A view of what was written, and its own views, read anew."""
        assert view.source is not None
        if isinstance(view.source.value, str):
            view.value = view.source.value
        elif not view.sure:
            how = f"while {self._made_by(view)} may or may not share its memory"
            view.value = f"a tensor that layer {layer_of(by)} overwrites {how}; do not write in place there"
        else:
            view.value = self._again(view)
        for inner in view.views:
            self._refresh(inner, by)

    def _again(self, view: _Tensor) -> fx.Node:
        """The operation of a view on its source as it is now."""
        node, source = view.view, view.source
        assert node is not None and source is not None and isinstance(source.value, fx.Node)
        if node.args:
            # what was written may lie in memory otherwise than what was viewed
            target = "reshape" if (node.op, node.target) == ("call_method", "view") else node.target
            return self._emit(node.op, target, (source.value, *node.args[1:]), dict(node.kwargs))
        name = next(key for key in ("input", "self") if key in node.kwargs)
        return self._emit(node.op, node.target, (), {**node.kwargs, name: source.value})

    def _put_back(self, child: _Tensor, before: fx.Node | str) -> fx.Node | None:
        """The source of a view that was written; None where that is not known."""
        node, value = child.view, child.value
        assert node is not None and isinstance(value, fx.Node)
        name = self._operation(node)
        if name in SAME or (node.target is getattr and node.args[1] == "data"):
            return value
        if isinstance(before, str):
            return None
        if name in SHAPES:
            size = self._emit("call_method", "size", (before,))
            return self._emit("call_function", torch.reshape, (value, size))
        numbers = [part for argument in node.args[1:] for part in parts_of(argument)]
        if node.kwargs or not all(isinstance(number, int) for number in numbers):
            numbers = []
        if name in ("transpose", "swapaxes", "swapdims") and len(numbers) == 2:
            return self._emit("call_function", torch.transpose, (value, *numbers))
        if name == "permute" and numbers:
            places = [number % len(numbers) for number in numbers]
            inverse = tuple(places.index(place) for place in range(len(places)))
            return self._emit("call_function", torch.permute, (value, inverse))
        where = channels_of(node, name)
        return None if where is None else self._with_channels(before, value, *where)

    def _with_channels(self, whole: fx.Node, part: fx.Node, start: int, stop: int | None) -> fx.Node:
        """``whole`` with the channels ``start`` to ``stop`` from ``part``."""
        parts = [part]
        if start:
            parts.insert(0, self._emit("call_function", operator.getitem, (whole, span(None, start))))
        if stop is not None:
            parts.append(self._emit("call_function", operator.getitem, (whole, span(stop, None))))
        return self._emit("call_function", torch.cat, (parts, 1)) if len(parts) > 1 else part

    def _is_split(self, tensor: _Tensor) -> bool:
        return tensor.view is not None and self._operation(tensor.view) in SPLITTING

    @staticmethod
    def _index(part: _Tensor) -> Any:
        assert part.view is not None
        return part.view.args[1]

    def _joined(self, child: _Tensor, parts: _Tensor) -> fx.Node | None:
        """The tensor that was split into ``parts``, of which ``child`` was written; None where their number is not known."""
        node, split = parts.view, parts.value
        assert node is not None and isinstance(child.value, fx.Node)
        options = dict(zip(("sizes", "dim"), node.args[1:])) | dict(node.kwargs)
        dim = options.pop("dim", 0)
        how = next((value for key, value in options.items() if key not in ("input", "self")), None)
        if self._operation(node) == "chunk" and isinstance(how, int):
            count = how
        elif isinstance(how, list | tuple):
            count = len(how)
        else:
            return None
        index = self._index(child)
        if not isinstance(index, int) or not isinstance(dim, int) or isinstance(split, str):
            return None
        now: dict[int, fx.Node] = {index % count: child.value}
        for part in parts.views:
            if isinstance(self._index(part), int) and isinstance(part.value, fx.Node):
                now.setdefault(self._index(part) % count, part.value)
        pieces = [
            now.get(place) or self._emit("call_function", operator.getitem, (split, place))
            for place in range(count)
        ]
        return self._emit("call_function", torch.cat, (pieces, dim))

    def _set_item(self, node: fx.Node) -> None:
        """``x[index] = value``."""
        target, index, value = node.args
        assert isinstance(target, fx.Node)
        whole = self.tensors[target]
        self._check_write(whole, node)
        new = self.tensors[value] if isinstance(value, fx.Node) else None
        if new is not None and new.source is whole and new.view is not None and new.view.args[1:] == (index,):
            self.graph.erase_node(node)  # what ``x[index] += value`` ends with: the view is written already
            return
        before, where = self._read(target, node), span_of(index)
        if where is None or not isinstance(value, fx.Node):
            raise UserError(
                f"layer {layer_of(node)} overwrites a part of a tensor, [{index}]; join parts by torch.cat instead"
            )
        self.cursor = node
        joined = self._with_channels(before, self._read(value, node), *where)
        self._write(whole, joined, node)
        self.graph.erase_node(node)

    def _emit(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        with self.graph.inserting_after(self.cursor):
            node = self.graph.create_node(op, target, args, kwargs or {})
        node.meta = {k: v for k, v in self.cursor.meta.items() if k == "nn_module_stack"}
        self.cursor = node
        self.made.append(node)
        return node


def _family(root: _Tensor, kept: _Tensor) -> Iterator[_Tensor]:
    """A tensor and its views, views of ``kept`` excepted."""
    yield root
    for view in root.views:
        if view is not kept:
            yield from _family(view, kept)


def _sources(tensor: _Tensor) -> Iterator[_Tensor]:
    """What a tensor is a view of, and the other views of that."""
    if tensor.source is not None:
        yield from _family(tensor.source, tensor)
        yield from _sources(tensor.source)
