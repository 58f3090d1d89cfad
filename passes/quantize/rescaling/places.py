"""Follow channels from axis to axis through the operators that leave them apart.

Channels lie on one axis, or (heads of an attention) on two; behind a ``Flatten`` each may stand for a run of
entries. ``moved`` tells where the result of a node has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from adapass.graph.edit import constant_array
from adapass.rewrite import Reject

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Neg", "Abs"})
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax"})
NOT_APART = "a reader mixes the channels, or does not scale with them"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value has the channels."""

    axes: tuple[int, ...]
    """In the order in which the channels are counted."""
    repeat: int = 1


def rank_of(value: ir.Value | None) -> int:
    """Number of axes.

    Raises:
        Reject: unknown.

    """
    if value is None or value.shape is None:
        raise Reject("the shape of a value is unknown")
    return value.shape.rank()


def size_at(value: ir.Value, axis: int) -> int:
    """A fixed size.

    Raises:
        Reject: it is not fixed.

    """
    size = value.shape[axis] if value.shape is not None and -1 <= axis < value.shape.rank() else None
    if not isinstance(size, int):
        raise Reject("the shape of a value is unknown")
    return size


def moved(node: ir.Node, value: ir.Value, place: Place, channels: int) -> Place:
    """Where the first output of ``node`` has the channels that ``value`` has at ``place``.

    Raises:
        Reject: the node does not keep them apart and scale with them.

    """
    kind = node.op_type
    if kind in HOMOGENEOUS and node.inputs[0] is value:
        return place
    if kind == "Clip" and _is_relu(node):
        return place
    if kind in POOLS and place.axes == (1,) and len(node.outputs) == 1:
        return place
    if kind == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(rank_of(value))))) or ()
        return Place(tuple(list(order).index(axis) for axis in place.axes), place.repeat)
    if kind in REDUCTIONS or kind in ("Squeeze", "Unsqueeze"):
        return _without_axes(node, value, place)
    if kind in ("Reshape", "Flatten") and node.inputs[0] is value:
        return _reshaped(node, value, place, channels)
    raise Reject(NOT_APART)


def _is_relu(node: ir.Node) -> bool:
    bounds = [constant_array(each) if each is not None else None for each in node.inputs[1:]]
    given = [each is not None for each in node.inputs[1:]]
    low = bounds[0] if bounds else None
    return low is not None and not low.any() and not any(given[1:])


def _without_axes(node: ir.Node, value: ir.Value, place: Place) -> Place:
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    listed = given.ravel().tolist() if given is not None else list(node.attributes.get_ints("axes", ()) or ())
    result = node.outputs[0]
    rank = rank_of(result) if node.op_type == "Unsqueeze" else rank_of(value)
    axes = sorted(int(axis) % rank for axis in listed)
    if not axes or any(axis in place.axes for axis in axes if node.op_type != "Unsqueeze"):
        raise Reject(NOT_APART)
    if node.op_type == "Unsqueeze":
        kept = [axis for axis in range(rank) if axis not in axes]
        return Place(tuple(kept[axis] for axis in place.axes), place.repeat)
    if node.op_type != "Squeeze" and node.attributes.get_int("keepdims", 1) != 0:
        return place
    return Place(tuple(axis - sum(gone < axis for gone in axes) for axis in place.axes), place.repeat)


def _reshaped(node: ir.Node, value: ir.Value, place: Place, channels: int) -> Place:
    """Split the last axis in two, join the last two, keep the last one, or flatten what is behind axis 1."""
    result = node.outputs[0]
    rank, new_rank = rank_of(value), rank_of(result)
    if place.axes == (rank - 1,) and place.repeat == 1:
        if size_at(result, new_rank - 1) == channels:
            return Place((new_rank - 1,))
        if new_rank > 1 and size_at(result, new_rank - 2) * size_at(result, new_rank - 1) == channels:
            return Place((new_rank - 2, new_rank - 1))
    if place.axes == (rank - 2, rank - 1) and size_at(result, new_rank - 1) == channels:
        return Place((new_rank - 1,))
    if place.axes == (1,) and new_rank == 2 and rank > 2:
        run = math.prod(size_at(value, axis) for axis in range(2, rank))
        if size_at(result, 1) == channels * run:
            return Place((1,), run)
    raise Reject(NOT_APART)
