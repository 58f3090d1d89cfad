"""Parts of a graph that number rows of the batch at hand, work on some of them, and put them back.

    NonZero -> rows ; Gather(x, rows) -> ... -> y ; ScatterND(rest, rows, y)

Row numbers leave nothing behind outside: whoever is left in the batch is numbered anew when the part runs.
It must run as a whole on one side of an exit, which it does: nothing but the end is read from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from adapass.graph.tensors import subgraphs_of


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
    is_closed = bool(ends) and all(_made_by(end, 1, inside) and not _made_by(end, 0, inside) for end in ends)
    return (inside, ends) if is_closed else None


def _made_by(node: ir.Node, place: int, makers: set[ir.Node]) -> bool:
    value = node.inputs[place]
    return value is not None and value.producer() in makers
