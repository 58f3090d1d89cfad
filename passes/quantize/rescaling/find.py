"""Find the links of a model, see ``links``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.graph.edit import constant_array
from adapass.graph.shapes import infer_shapes
from adapass.passes.quantize.rescaling.links import Link, Read, Slot
from adapass.passes.quantize.rescaling.places import NOT_APART, Place, moved, rank_of
from adapass.passes.quantize.rescaling.slots import added, read_by, written_by
from adapass.rewrite import Reject


def find_links(model: ir.Model) -> tuple[tuple[Link, ...], tuple[Refusal, ...]]:
    """All links in execution order, and the writers refused, each with its reason."""
    infer_shapes(model)
    links: list[Link] = []
    refusals: list[Refusal] = []
    contracted: dict[tuple[ir.Node, int], _Walk] = {}
    for node in model.graph:
        name = node.outputs[0].name or ""
        try:
            walk = _walk(model.graph, node)
            if walk is None:
                continue
            if walk.contracted is None:
                links.append(walk.link())
            else:
                contracted[walk.contracted] = walk
        except Reject as reason:
            refusals.append(Refusal(name, str(reason)))
    pairs, alone = _pairs(contracted)
    order = {node.outputs[0].name: index for index, node in enumerate(model.graph)}
    return tuple(sorted([*links, *pairs], key=lambda link: order[link.name])), (*refusals, *alone)


def _pairs(walks: Mapping[tuple[ir.Node, int], _Walk]) -> tuple[list[Link], list[Refusal]]:
    """Queries with their keys: the two operands of one product over the same channels."""
    links: list[Link] = []
    alone: list[Refusal] = []
    for (product, index), walk in walks.items():
        other = walks.get((product, 1 - index))
        if other is None or other.count != walk.count:
            alone.append(Refusal(walk.name, "the other operand of a product cannot be rescaled"))
        elif index == 0:
            links.append(
                Link(
                    name=walk.name,
                    channels=walk.count,
                    divided=tuple(walk.slots),
                    multiplied=tuple(other.slots),
                    values=(*walk.values, *other.values),
                    reads=(),
                )
            )
    return links, alone


@dataclass(slots=True)
class _Walk:
    """Everything behind one writer, up to the readers."""

    name: str
    count: int
    slots: list[Slot]
    """Constants that scale with the channels."""
    values: list[str] = field(default_factory=list[str])
    reads: list[Read] = field(default_factory=list[Read])
    contracted: tuple[ir.Node, int] | None = None
    """A product of two activations that sums over the channels, and which operand this is."""

    def link(self) -> Link:
        if not self.reads:
            raise Reject("nothing reads it")
        multiplied = tuple(read.slot for read in self.reads)
        return Link(
            self.name, self.count, tuple(self.slots), multiplied, tuple(self.values), tuple(self.reads)
        )


def _walk(graph: ir.Graph, writer: ir.Node) -> _Walk | None:
    if (written := written_by(writer)) is None:
        return None
    place, count, slots = written
    walk = _Walk(writer.outputs[0].name or "", count, list(slots))
    pending: list[tuple[ir.Value, Place]] = [(writer.outputs[0], place)]
    seen: dict[ir.Value, Place] = {}
    while pending:
        value, place = pending.pop()
        if value in seen:
            raise Reject("the channels meet themselves")
        seen[value] = place
        if value.is_graph_output():
            raise Reject("the model returns it")
        walk.values.append(value.name or "")
        pending += _readers(graph, walk, value, place)
    if walk.contracted is not None and walk.reads:
        raise Reject("it is read by a product of activations and by another one")
    return walk


def _readers(graph: ir.Graph, walk: _Walk, value: ir.Value, place: Place) -> list[tuple[ir.Value, Place]]:
    """Results that hold the channels too; what ends the way is noted in ``walk``."""
    found: list[tuple[ir.Value, Place]] = []
    for use in sorted(value.uses(), key=lambda use: (use.node.outputs[0].name or "", use.idx)):
        node = use.node
        if node.graph is not graph or node.domain != "":
            raise Reject(NOT_APART)
        if node.op_type == "Shape":
            continue
        slot = read_by(node, value, place, walk.count)
        if slot is not None:
            walk.reads.append(Read(value.name or "", place.axes, place.repeat, slot))
        elif node.op_type == "MatMul" and _sums_over(value, use.idx, place):
            _contract(walk, node, use.idx, value, place)
        else:
            found.append((node.outputs[0], _next(walk, node, use.idx, value, place)))
    return found


def _next(walk: _Walk, node: ir.Node, index: int, value: ir.Value, place: Place) -> Place:
    if node.op_type == "MatMul":
        return _mixed(node, index, value, place)
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return moved(node, value, place, walk.count)
    other = node.inputs[1 - index]
    rank = rank_of(node.outputs[0])
    if rank != rank_of(value) or other is value:
        raise Reject(NOT_APART)
    if node.op_type in ("Mul", "Div"):
        if node.op_type == "Div" and index == 1:
            raise Reject(NOT_APART)
        return place
    if constant_array(other) is None:
        raise Reject("it is added to another value")
    walk.slots.append(added(node, 1 - index, rank, place, walk.count))
    return place


def _mixed(node: ir.Node, index: int, value: ir.Value, place: Place) -> Place:
    """Weighted sums over positions (values of an attention): the channels stay where they are."""
    rank = rank_of(value)
    same = rank_of(node.outputs[0]) == rank and rank > 2 and place.repeat == 1
    if index != 1 or not same or rank - 1 not in place.axes:
        raise Reject(NOT_APART)
    return place


def _sums_over(value: ir.Value, index: int, place: Place) -> bool:
    rank = rank_of(value)
    return (rank - 1 if index == 0 else rank - 2) in place.axes


def _contract(walk: _Walk, node: ir.Node, index: int, value: ir.Value, place: Place) -> None:
    if walk.contracted is not None or place.repeat != 1:
        raise Reject("it is read by a product of activations and by another one")
    rank = rank_of(value)
    summed = rank - 1 if index == 0 else rank - 2
    others = [axis for axis in place.axes if axis != summed]
    if place.axes[-1] != summed or any(axis >= rank - 2 for axis in others):
        raise Reject(NOT_APART)
    walk.contracted = (node, index)
