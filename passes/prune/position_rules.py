"""Which positions of its inputs an operator needs to compute one position of its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from adapass.graph.constants import constant_array

Reads = tuple[tuple[ir.Value, int], ...]
"""Inputs of which the same position alone is needed, with its axis there; others are needed whole."""
Rule = Callable[[ir.Node, int], Reads | None]

ELEMENTWISE: Final = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater",
        "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu", "Less", "LessOrEqual",
        "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Selu",
        "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
    }
)  # fmt: skip


def positions_read(node: ir.Node, axis: int) -> Reads | None:
    """For one position along ``axis`` (not negative) of the only output; ``None`` where more is needed.

    The same position counted from either end, that is: an axis of unknown size may be broadcast.
    """
    if node.domain != "" or len(node.outputs) != 1 or node.outputs[0].shape is None:
        return None
    if any(value is not None and value.shape is None for value in node.inputs):
        return None
    if node.op_type in ELEMENTWISE:
        return _broadcast(node, axis, range(len(node.inputs)), 0)
    rule = RULES.get(node.op_type)
    return None if rule is None else rule(node, axis)


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)


def _broadcast(node: ir.Node, axis: int, inputs: range, skipped: int) -> Reads:
    """Shapes aligned at their ends, ``skipped`` axes there apart; sizes of 1 serve all positions."""
    rank = _rank(node.outputs[0])
    found: list[tuple[ir.Value, int]] = []
    for place in inputs:
        value = node.inputs[place]
        own = axis - (rank - _rank(value))
        if value is None or value.shape is None or own < 0 or own >= _rank(value) - skipped:
            continue
        if value.shape[own] != 1:
            found.append((value, own))
    return tuple(found)


def _matmul(node: ir.Node, axis: int) -> Reads | None:
    left, right = node.inputs[0], node.inputs[1]
    rank = _rank(node.outputs[0])
    if left is None or min(_rank(left), _rank(right)) < 2 or axis == rank - 1:
        return None
    if axis == rank - 2:
        return ((left, _rank(left) - 2),)
    return _broadcast(node, axis, range(2), 2)


def _over_others(node: ir.Node, axis: int) -> Reads | None:
    """Softmax and the like, over one axis; normalisation over the last axes."""
    data = node.inputs[0]
    if data is None:
        return None
    first = node.attributes.get_int("axis", -1) % _rank(data)
    apart = axis != first if node.op_type in {"LogSoftmax", "Softmax"} else axis < first
    return ((data, axis),) if apart else None


def _transpose(node: ir.Node, axis: int) -> Reads | None:
    data, order = node.inputs[0], node.attributes.get("perm")
    if data is None:
        return None
    places = list(range(_rank(data)))[::-1] if order is None else list(order.as_ints())
    return ((data, places[axis]),)


def _reshape(node: ir.Node, axis: int) -> Reads | None:
    """Where the axes up to this one stay, and those behind hold as much as before."""
    data, target = node.inputs[0], constant_array(node.inputs[1])
    if data is None or data.shape is None or target is None or node.attributes.get_int("allowzero", 0) != 0:
        return None
    wanted = [int(size) for size in target.reshape(-1)]
    if any(wanted[:axis]) or wanted[axis] not in {0, -1} or axis >= _rank(data):
        return None
    old, new = data.shape[axis + 1 :], wanted[axis + 1 :]
    sizes = [size for size in old if isinstance(size, int)]
    if len(sizes) < len(old) or min(new, default=1) < 1 or prod(sizes) != prod(new):
        return None
    return ((data, axis),)


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "LayerNormalization": _over_others,
        "LogSoftmax": _over_others,
        "MatMul": _matmul,
        "RMSNormalization": _over_others,
        "Reshape": _reshape,
        "Softmax": _over_others,
        "Transpose": _transpose,
    }
)
