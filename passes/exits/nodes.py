"""A small writer of ONNX nodes that are inserted right behind the values they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import UsageError
from adapass.graph.edit import fresh_name, new_initializer

REDUCTION_AXES_INPUT = 18
"""Operator set in which the axes of every reduction became an input (ReduceSum was first, in 13)."""


class Builder:
    """Collects nodes for one model; ``flush`` puts them in the graph.

    A node goes behind the last producer of its inputs, so that what an exit computes stays before the
    part of the model it saves.
    """

    def __init__(self, model: ir.Model, prefix: str = "adapass_exit") -> None:
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 0)
        self.prefix = prefix
        self._values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        self._known: dict[str, ir.Value] = {}
        self._counter = 0

    def value(self, name: str) -> ir.Value:
        """A value of the graph.

        Raises:
            UsageError: there is none of this name.

        """
        if name not in self._values:
            raise UsageError(f"the graph has no value '{name}' to put an exit at")
        return self._values[name]

    def once(self, key: str, make: Callable[[], ir.Value]) -> ir.Value:
        """``make()`` the first time, what it made then afterwards."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def op(
        self,
        op_type: str,
        *inputs: ir.Value,
        domain: str = "",
        name: str | None = None,
        **attributes: float | str | Sequence[int],
    ) -> ir.Value:
        """Append one node with one output."""
        node = ir.node(op_type, inputs, attributes, domain=domain)
        output = node.outputs[0]
        output.name = fresh_name(self.graph, name) if name else self._fresh()
        self._place(node)
        return output

    def constant(self, array: Array | np.generic, name: str | None = None) -> ir.Value:
        """An initializer; small ones of equal content are shared unless they are named."""
        data = np.asarray(array)
        if name is not None:
            return new_initializer(self.graph, name, data)
        key = f"constant {data.dtype} {data.shape} {data.tobytes().hex()}"
        return self.once(key, lambda: new_initializer(self.graph, f"{self.prefix}_constant", data))

    def floats(self, value: ir.Value) -> ir.Value:
        """``value`` as float32."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        return self.once(f"float {value.name}", lambda: self.op("Cast", value, to=int(ir.DataType.FLOAT)))

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int], *, keep: bool = False) -> ir.Value:
        if op_type != "ReduceSum" and self.opset < REDUCTION_AXES_INPUT:
            return self.op(op_type, value, axes=list(axes), keepdims=int(keep))
        return self.op(op_type, value, self.constant(np.asarray(axes, np.int64)), keepdims=int(keep))

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self.op("Squeeze", value, self.constant(np.asarray(axes, np.int64)))

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self.op("Unsqueeze", value, self.constant(np.asarray(axes, np.int64)))

    def largest(self, value: ir.Value, count: int) -> ir.Value:
        """The ``count`` largest entries along axis 1, in falling order."""
        node = ir.node(
            "TopK", [value, self.constant(np.asarray([count], np.int64))], {"axis": 1}, num_outputs=2
        )
        node.outputs[0].name, node.outputs[1].name = self._fresh(), self._fresh()
        self._place(node)
        return node.outputs[0]

    def _fresh(self) -> str:
        self._counter += 1
        return fresh_name(self.graph, f"{self.prefix}_{self._counter}")

    def _place(self, node: ir.Node) -> None:
        producers = [p for value in node.inputs if value is not None and (p := value.producer()) is not None]
        if not producers:
            first = next(iter(self.graph), None)
            if first is None:
                self.graph.append(node)
            else:
                self.graph.insert_before(first, node)
            return
        self.graph.insert_after(_last(self.graph, producers), node)


def _last(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    if len(nodes) == 1:
        return nodes[0]
    wanted = set(nodes)
    return next(node for node in reversed(graph) if node in wanted)
