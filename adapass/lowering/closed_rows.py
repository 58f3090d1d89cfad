"""Parts of a graph that number rows of the batch at hand, work on some of them, and put them back.

    NonZero -> rows ; Gather(x, rows) -> ... -> y ; ScatterND(rest, rows, y)

Row numbers leave nothing behind outside: whoever is left in the batch is numbered anew when the part runs.
It must run as a whole on one side of an exit, which it does: nothing but the end is read from outside.
Rows must not see each other there, or the others' results would change when some of them leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from adapass.graph.edit import constant_array
from adapass.graph.tensors import subgraphs_of

_TOGETHER = frozenset(
    {
        "CumSum", "TopK", "Einsum", "ArgMax", "ArgMin", "Conv", "ConvTranspose", "AveragePool", "MaxPool",
        "InstanceNormalization", "LpNormalization", "Hardmax", "LSTM", "GRU", "RNN",
    }
)  # fmt: skip
_SECOND_FACTOR = {"MatMul": 1, "Gemm": 1, "MatMulInteger": 1, "FusedMatMul": 1, "QLinearMatMul": 3}
_AXIS = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"})
_ROWS = frozenset({0, -2})
"""The axis of rows in ``[n, C]``."""


@dataclass(frozen=True, slots=True)
class ClosedRows:
    """All such parts of a graph, functions inlined."""

    inside: frozenset[ir.Node]
    """Nodes that work with row numbers, or on rows taken by them."""
    ends: frozenset[ir.Node]
    """The nodes that put rows back: what they compute has all rows again, in place."""

    @classmethod
    def of(cls, graph: ir.Graph) -> ClosedRows:
        inside: set[ir.Node] = set()
        ends: set[ir.Node] = set()
        for node in graph:
            if node.domain == "" and node.op_type == "NonZero" and (part := _part(node)) is not None:
                inside |= part[0]
                ends |= part[1]
        return cls(frozenset(inside), frozenset(ends - inside))


def _part(start: ir.Node) -> tuple[set[ir.Node], set[ir.Node]] | None:
    """What depends on the numbers that ``start`` gives; ``None`` where something else leaves the part."""
    inside = {start}
    ends: set[ir.Node] = set()
    stack = [start]
    while stack:
        for value in stack.pop().outputs:
            if value.is_graph_output():
                return None
            for reader, place in value.uses():
                if reader.graph is not start.graph or subgraphs_of(reader):
                    return None
                if reader.op_type == "ScatterND" and reader.domain == "" and place > 0:
                    ends.add(reader)
                elif reader not in inside:
                    inside.add(reader)
                    stack.append(reader)
    if any(_mixes(node, inside) for node in inside):
        return None
    is_closed = bool(ends) and all(_made_by(end, 1, inside) and not _made_by(end, 0, inside) for end in ends)
    return (inside, ends) if is_closed else None


def _mixes(node: ir.Node, inside: set[ir.Node]) -> bool:
    """Whether rows that were taken see each other in ``node``, or may."""
    kind = node.op_type
    if kind in _AXIS:
        return node.attributes.get_int("axis", -1) in _ROWS
    if kind.startswith("Reduce"):
        axes = _axes(node)
        return not axes or not _ROWS.isdisjoint(axes)
    if kind in _SECOND_FACTOR:
        return _made_by(node, _SECOND_FACTOR[kind], inside) or node.attributes.get_int("transA", 0) == 1
    return kind in _TOGETHER


def _axes(node: ir.Node) -> tuple[int, ...]:
    """Of a reduction; none where that is all of them, or cannot be seen."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    stored = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return () if stored is None else tuple(int(axis) for axis in stored.ravel())


def _made_by(node: ir.Node, place: int, makers: set[ir.Node]) -> bool:
    value = node.inputs[place]
    return value is not None and value.producer() in makers
