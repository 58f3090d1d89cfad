"""Which operators work across samples although their result still has one entry a sample."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from adapass.graph.edit import constant_array

DependentAxes = Callable[[ir.Value], frozenset[int]]
"""The axes of a value whose length depends on the batch size."""

_ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax", "TopK", "LpNormalization"})
_FROM_AXIS_ON = frozenset({"LayerNormalization", "RMSNormalization"})
_FIRST_AXIS_IS_BATCH = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "BatchNormalization",
        "InstanceNormalization",
    }
)
_FLATTENING_OPSET = 13
"""Before this operator set, softmax ran over all axes from its axis on, 1 by default."""


def mixes_samples(node: ir.Node, axes: DependentAxes, opset: int) -> bool:
    """Whether ``node`` works across samples. Reductions over the batch are not meant: they lose the axis."""
    first = node.inputs[0] if node.inputs else None
    if node.domain != "" or first is None or not (dependent := axes(first) | _second(node, axes)):
        return False
    rank = len(first.shape) if first.shape is not None else 1 + max(dependent)
    if node.op_type in _ALONG_AXIS:
        flattens = opset < _FLATTENING_OPSET and node.op_type.endswith("max")
        axis = node.attributes.get_int("axis", 1 if flattens else -1) % rank
        return bool(axes(first) & frozenset(range(axis, rank) if flattens else (axis,)))
    if node.op_type in _FROM_AXIS_ON:
        return bool(axes(first) & frozenset(range(node.attributes.get_int("axis", -1) % rank, rank)))
    if node.op_type in _FIRST_AXIS_IS_BATCH:
        return axes(first) != frozenset({0}) or node.attributes.get_int("training_mode", 0) == 1
    return _mixes_by_inputs(node, first, rank, axes)


def _mixes_by_inputs(node: ir.Node, first: ir.Value, rank: int, axes: DependentAxes) -> bool:
    if node.op_type == "MatMul":
        other = node.inputs[1]
        return rank - 1 in axes(first) or (other is not None and _contracted(other) in axes(other))
    if node.op_type == "Gemm":
        other = node.inputs[1]
        inner = 0 if node.attributes.get_int("transA", 0) else 1
        outer = 1 if node.attributes.get_int("transB", 0) else 0
        return inner in axes(first) or (other is not None and outer in axes(other))
    if node.op_type == "CumSum":
        along = _constants(node, 1, rank)
        return along is None or bool(axes(first) & along)
    if node.op_type == "Slice":
        along = _constants(node, 3, rank) if len(node.inputs) > 3 else frozenset(range(rank))
        return along is None or bool(axes(first) & along)
    return False


def _second(node: ir.Node, axes: DependentAxes) -> frozenset[int]:
    second = node.inputs[1] if len(node.inputs) > 1 else None
    return frozenset() if second is None else axes(second)


def _contracted(value: ir.Value) -> int:
    rank = len(value.shape) if value.shape is not None else 2
    return max(0, rank - 2)


def _constants(node: ir.Node, index: int, rank: int) -> frozenset[int] | None:
    array = constant_array(node.inputs[index])
    return None if array is None else frozenset(int(axis) % rank for axis in array.reshape(-1))
