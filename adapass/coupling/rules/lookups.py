"""Entries looked up by number: rows of embeddings, and the weights of the experts that a router chose."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import fix, reason_of
from adapass.coupling.flow import Flow, Refused, Role, Sized
from adapass.coupling.relations import unify
from adapass.coupling.rules.pieces import PICKED, between
from adapass.graph.constants import constant_array

LOOKUPS = frozenset({"Gather", "GatherND"})
NUMBERED = "its entries are looked up by number"
MATRIX = 2


def gather(flow: Flow, node: ir.Node) -> None:
    data, indices = flow.of(node, 0), flow.of(node, 1)
    axis = node.attributes.get_int("axis", 0) % len(data)
    if len(indices) == 1 and _gather_one(flow, node, axis):
        return
    fix(data[axis], NUMBERED)
    rest = [dim for position, dim in enumerate(data) if position != axis]
    for dim, role in zip(rest, roles_of_rows(node, len(rest)), strict=True):
        flow.plays(node, 0, dim, role)
    flow.give(node, [*data[:axis], *indices, *data[axis + 1 :]])


def _gather_one(flow: Flow, node: ir.Node, axis: int) -> bool:
    """A list of one stored number is a Slice of one entry; what lies around it may shrink."""
    data, indices = flow.of(node, 0), constant_array(node.inputs[1])
    if indices is None or set(indices.shape) != {1} or reason_of(data[axis]) is not None:
        return False
    number = int(indices.reshape(-1)[0])
    before, picked, after = between(flow, data[axis], number, flow.ones)
    fix(picked, PICKED)
    flow.give(node, [*data[:axis], picked, *data[axis + 1 :]])
    rest = (picked, after) if number < 0 else ()
    flow.sized.append(Sized(node, 1, "", ((before,),), follows=rest))
    return True


def gather_elements(flow: Flow, node: ir.Node) -> None:
    """Along one axis entries are picked; along the others data and indices run side by side."""
    data, indices = flow.of(node, 0), flow.of(node, 1)
    chosen = node.attributes.get_int("axis", 0) % len(data)
    for axis, (mine, theirs) in enumerate(zip(data, indices, strict=True)):
        if axis == chosen:
            fix(mine, PICKED)
        else:
            unify(mine, theirs)
    flow.give(node, indices)


def gather_nd(flow: Flow, node: ir.Node) -> None:
    """The axes behind those that the numbers address come along."""
    data, indices = flow.of(node, 0), flow.of(node, 1)
    batch = node.attributes.get_int("batch_dims", 0)
    depth = set(indices[-1].size)
    if len(depth) > 1:
        raise Refused("GatherND with numbers of varying length")
    first = batch + depth.pop()
    if (batch, first, len(indices)) == (0, 1, MATRIX) and _gather_one(flow, node, 0):
        return
    for mine, theirs in zip(data[:batch], indices[:batch], strict=True):
        unify(mine, theirs)
    for dim in data[batch:first]:
        fix(dim, NUMBERED)
    fix(indices[-1], "it counts axes")
    roles = roles_of_rows(node, len(data) - first)
    for dim, role in zip(data[first:], roles, strict=True):
        flow.plays(node, 0, dim, role)
    flow.give(node, [*indices[:-1], *data[first:]])


def roles_of_rows(node: ir.Node, rank: int) -> list[Role]:
    """What the axes of looked-up entries do: a matrix that a product multiplies with reads and writes."""
    roles: list[Role] = ["writes"] * rank
    readers = list(node.outputs[0].uses())
    if rank < MATRIX or len(readers) != 1 or readers[0].node.op_type != "MatMul":
        return roles
    roles[-1 if readers[0].idx == 0 else -MATRIX] = "reads"
    return roles


def is_looked_up_weight(flow: Flow, node: ir.Node, index: int) -> bool:
    """Whether an input of a product is a stored matrix, chosen by number from several."""
    value = node.inputs[index] if index < len(node.inputs) else None
    lookup = value.producer() if value is not None else None
    if lookup is None or lookup.op_type not in LOOKUPS or not flow.is_stored(lookup, 0):
        return False
    data = flow.of(lookup, 0)
    return len(data) > MATRIX and value is not None and len(value.uses()) == 1
