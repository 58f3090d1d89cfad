"""Which elements of a stored weight, bias or scale belong to which channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import constant_array
from adapass.passes.quantize.rescaling.links import Integers, Slot
from adapass.passes.quantize.rescaling.places import Place, rank_of
from adapass.rewrite import Reject

WRITERS = frozenset(
    {"Conv", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization", "InstanceNormalization"}
)
NORMS = frozenset({"LayerNormalization", "BatchNormalization", "InstanceNormalization"})


def written_by(node: ir.Node) -> tuple[Place, int, tuple[Slot, ...]] | None:
    """Where the result of a node has its channels, how many, and the constants that scale them.

    ``None`` for a node that writes no channels of its own.

    Raises:
        Reject: it does, but not by float32 constants alone.

    """
    if node.domain != "" or node.op_type not in WRITERS:
        return None
    if node.op_type in NORMS:
        return _norm(node)
    weight = constant_array(node.inputs[1])
    if weight is None:
        return None
    axis = output_axis(node)
    if weight.ndim < 2 or (weight.ndim > 2 and node.op_type != "Conv"):
        raise Reject("the weight is not a matrix")
    count = weight.shape[axis]
    slots = [_slot(node, 1, _along(axis, weight.ndim, count), is_weight=True)]
    if node.op_type != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        slots.append(_slot(node, 2, _along(0, 1, count), is_weight=False))
    return Place((1 if node.op_type == "Conv" else rank_of(node.outputs[0]) - 1,)), count, tuple(slots)


def read_by(node: ir.Node, value: ir.Value, place: Place, count: int) -> Slot | None:
    """The weight with which a product reads channels; ``None`` where it is no such product.

    Raises:
        Reject: it reads them in another way.

    """
    if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul") or node.inputs[0] is not value:
        return None
    weight = constant_array(node.inputs[1])
    if weight is None:
        return None
    if node.op_type == "Conv":
        return _slot(node, 1, _conv_inputs(node, weight.shape, place, count), is_weight=True)
    if weight.ndim != 2 or place.axes != (rank_of(value) - 1,) or node.attributes.get_int("transA", 0) != 0:
        raise Reject("a product does not sum over the channels")
    axis = 1 - output_axis(node)
    if weight.shape[axis] != count * place.repeat:
        raise Reject("a product does not sum over the channels")
    rows = np.repeat(np.arange(count), place.repeat)
    return _slot(node, 1, rows.reshape(-1, 1) if axis == 0 else rows.reshape(1, -1), is_weight=True)


def added(node: ir.Node, index: int, rank: int, place: Place, count: int) -> Slot:
    """A constant that is added to channels of a value of this rank: it scales with them.

    Raises:
        Reject: the channels lie on more than one axis.

    """
    if len(place.axes) != 1 or place.repeat != 1:
        raise Reject("a constant is added behind the split into heads")
    axis = place.axes[0] - rank  # from the end: the constant may have fewer axes
    return _slot(node, index, np.arange(count).reshape(-1, *(1,) * (-axis - 1)), is_weight=False)


def output_axis(node: ir.Node) -> int:
    """The axis of a product's weight that holds its output channels."""
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) != 0 else 1


def _norm(node: ir.Node) -> tuple[Place, int, tuple[Slot, ...]]:
    rank = rank_of(node.outputs[0])
    scale = constant_array(node.inputs[1])
    if scale is None or scale.ndim != 1:
        raise Reject("a normalisation has no constant scale a channel")
    last = node.op_type == "LayerNormalization"
    if last and node.attributes.get_int("axis", -1) not in (-1, rank - 1):
        raise Reject("a normalisation has no constant scale a channel")
    channels = np.arange(len(scale))
    indices = [1] + [2] * (len(node.inputs) > 2 and node.inputs[2] is not None)
    slots = tuple(_slot(node, index, channels, is_weight=False) for index in indices)
    return Place((rank - 1 if last else 1,)), len(scale), slots


def _conv_inputs(node: ir.Node, shape: tuple[int, ...], place: Place, count: int) -> Integers:
    """[M, C / group, 1, ...]: in a grouped convolution each block of outputs reads a block of inputs."""
    groups = node.attributes.get_int("group", 1) or 1
    if place != Place((1,)) or shape[1] * groups != count or shape[0] % groups:
        raise Reject("a product does not sum over the channels")
    first = np.arange(groups).repeat(shape[0] // groups).reshape(-1, 1) * shape[1]
    inputs = first + np.arange(shape[1])
    return inputs.reshape(*inputs.shape, *(1,) * (len(shape) - 2))


def _along(axis: int, rank: int, count: int) -> Integers:
    return np.arange(count).reshape([-1 if each == axis else 1 for each in range(rank)])


def _slot(node: ir.Node, index: int, channels: Integers, *, is_weight: bool) -> Slot:
    array = constant_array(node.inputs[index])
    if array is None or array.dtype != np.float32 or not np.isfinite(array).all():
        raise Reject("a weight or a bias is not a finite float32 constant")
    return Slot(node, index, channels, is_weight)
