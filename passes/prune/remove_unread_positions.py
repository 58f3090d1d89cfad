"""Compute the last layer only where it is read: classifiers look at the first token, or at the last.

    h = Gelu (MatMul (x [N, T, C], w))     ->   s = Gather <axis=1> (x, [0])
                                                h = Gelu (MatMul (s [N, 1, C], w))
    y = Gather <axis=1> (h, 0)                  y = Gather <axis=1> (h, 0)

Faster because products run on one position instead of all; of the last layer of a transformer only keys and
values are left whole. Right because each operator on the way computes a position from that position alone:
rows of products, normalisation over the last axes, softmax over other axes, element-wise operators. Where a
value is read by others too, it is computed whole as before, and its position taken there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.graph.edit import fresh_name, insert_before, mark_roots, new_initializer
from adapass.graph.shapes import infer_shapes
from adapass.passes.prune.position_rules import positions_read
from adapass.rewrite import Exactness, Pass, PassResult

ENDS = (0, -1)
"""Positions that exist whatever the length."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one position of a value is computed from."""

    nodes: Mapping[ir.Node, int]
    """Nodes that compute nothing else, and the axis of their output."""
    borders: Mapping[ir.Value, int]
    """Values that they read and others too, with the axis."""

    @property
    def saves(self) -> bool:
        return any(node.op_type == "MatMul" for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class RemoveUnreadPositions(Pass):
    """Take the one position that is read out of the sequence as early as it can be.

    Where it can be taken before a product, that is; moved past less, it would save nothing.
    """

    name: ClassVar[str] = "remove-unread-positions"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    source: ClassVar[str] = "dead-code elimination along an axis"

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        rejected: Counter[str] = Counter()
        sites: list[str] = []
        selections = [node for node in model.graph if node.domain == "" and node.op_type == "Gather"]
        if selections:
            infer_shapes(model)
            mark_roots(model)
        for root in selections:
            site = root.outputs[0].name or ""
            if only is not None and site not in only:
                continue
            found = _part(model, root)
            if isinstance(found, str):
                rejected[found] += 1
                continue
            _take(model, root, found)
            sites.append(site)
        if sites:
            facts.keep_only(())
            infer_shapes(model)
        return PassResult(len(sites), MappingProxyType(dict(rejected)), tuple(sites))


def _part(model: ir.Model, root: ir.Node) -> Part | str:
    """What the position that ``root`` reads is computed from, or why nothing is saved."""
    data = root.inputs[0]
    if data is None or data.is_initializer() or data.is_graph_input() or data.shape is None:
        return "what is read is not computed"
    position = _position(root)
    if position is None:
        return "not the first or the last position is read, or several are"
    axis = root.attributes.get_int("axis", 0) % len(data.shape)
    size = data.shape[axis]
    if size == 1:
        return "there is one position only"
    part = _walked(model, root, data, axis)
    return part if part.saves else "no product computes positions that nobody reads"


def _position(root: ir.Node) -> int | None:
    index = constant_array(root.inputs[1])
    if index is None or index.size != 1:
        return None
    position = int(index.reshape(())) if index.ndim == 0 else int(index.reshape(-1)[0])
    return position if position in ENDS else None


def _walked(model: ir.Model, root: ir.Node, data: ir.Value, axis: int) -> Part:
    """From ``root`` towards the inputs; a node comes after all that read it."""
    wanted: dict[ir.Value, int] = {data: axis}
    nodes: dict[ir.Node, int] = {}
    before = list(model.graph)
    for node in reversed(before[: before.index(root)]):
        result = node.outputs[0]
        if result not in wanted or not _read_only_by(result, root, nodes):
            continue
        reads = positions_read(node, wanted[result])
        if reads is None or any(wanted.get(value, at) != at for value, at in reads):
            continue
        nodes[node] = wanted[result]
        wanted |= dict(reads)
    made = {node.outputs[0] for node in nodes}
    return Part(nodes, {value: at for value, at in wanted.items() if value not in made})


def _read_only_by(value: ir.Value, root: ir.Node, nodes: Mapping[ir.Node, int]) -> bool:
    if value.is_graph_output():
        return False
    return all(use.node is root or use.node in nodes for use in value.uses())


def _take(model: ir.Model, root: ir.Node, part: Part) -> None:
    position = _position(root)
    assert position is not None  # checked before
    ordered = [node for node in model.graph if node in part.nodes]
    taken = dict(_taken(model, ordered[0], part, position))
    for node in ordered:
        for place, value in enumerate(node.inputs):
            if value is not None and value in taken:
                node.replace_input_with(place, taken[value])
        _shrink(node.outputs[0], part.nodes[node])


def _taken(model: ir.Model, first: ir.Node, part: Part, position: int) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The position of each border, computed as soon as the border is known."""
    graph = model.graph
    order = {node: place for place, node in enumerate(graph)}
    index = new_initializer(graph, "position", np.array([position], np.int64))
    for value, axis in part.borders.items():
        readers = [use.node for use in value.uses() if use.node in part.nodes]
        earliest = min(readers, key=lambda node: order[node], default=first)
        node = ir.node("Gather", [value, index], {"axis": axis})
        result = node.outputs[0]
        result.name = fresh_name(graph, f"{value.name}_position")
        result.type = value.type
        result.shape = _with_one(value, axis)
        insert_before(earliest, [node])
        yield value, result


def _shrink(value: ir.Value, axis: int) -> None:
    value.shape = _with_one(value, axis)


def _with_one(value: ir.Value, axis: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    return ir.Shape([1 if place == axis else size for place, size in enumerate(value.shape)])
