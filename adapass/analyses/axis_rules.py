"""Where an axis of an input ends up in the outputs of a node, operator by operator.

Every rule is about positions, not about sizes: it says where the elements along an axis go, in the
same order. ``None`` means that the axis is summed over, cut apart or mixed with another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import constant_array

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One axis about to pass through one node."""

    node: ir.Node
    index: int
    """Which input of the node carries the axis."""
    axis: int
    shapes: Sequence[Shape | None]
    """Of all inputs; ``None`` where unknown or absent."""
    out: Shape

    @property
    def shape(self) -> Shape:
        return self.shapes[self.index] or ()

    @property
    def size(self) -> int:
        return self.shape[self.axis]


Rule = Callable[[Step], int | None]


def follow(step: Step) -> int | None:
    """The axis of the first output that holds what ``step.axis`` of the input holds."""
    if not 0 <= step.axis < len(step.shape):
        return None
    rule = (
        RULES.get(step.node.op_type, _aligned_right) if step.node.domain in ("", "ai.onnx") else _same_place
    )
    found = rule(step)
    return found if found is not None and 0 <= found < len(step.out) else None


def _aligned_right(step: Step) -> int | None:
    """Elementwise with broadcasting: axes line up from the right."""
    found = step.axis + len(step.out) - len(step.shape)
    return found if found >= 0 and step.out[found] == step.size else None


def _same_place(step: Step) -> int | None:
    return step.axis if len(step.out) > step.axis and step.out[step.axis] == step.size else None


def _nowhere(step: Step) -> int | None:
    del step
    return None


def _samples_only(step: Step) -> int | None:
    """Convolution-like: the first axis passes, channels and space are mixed."""
    return 0 if step.index == 0 and step.axis == 0 else None


def _data_only(step: Step) -> int | None:
    """Slice, Pad, Tile: the axis stays where it is if its size does."""
    return _same_place(step) if step.index == 0 else None


def _transpose(step: Step) -> int | None:
    perm = tuple(step.node.attributes.get_ints("perm", ())) or tuple(reversed(range(len(step.shape))))
    return perm.index(step.axis) if step.axis in perm else None


def _reshape(step: Step) -> int | None:
    """The axis survives when the same number of elements lies before it and it has the same size."""
    if step.index != 0:
        return None
    before = prod(step.shape[: step.axis])
    matches = [
        axis for axis, size in enumerate(step.out) if prod(step.out[:axis]) == before and size == step.size
    ]
    if step.size == 1:  # among axes of size one the order decides
        rank = sum(
            1 for axis in range(step.axis) if prod(step.shape[:axis]) == before and step.shape[axis] == 1
        )
        return matches[rank] if rank < len(matches) else None
    return matches[0] if matches else None


def _unsqueeze(step: Step) -> int | None:
    axes = _axes(step, len(step.out))
    if step.index != 0 or axes is None:
        return None
    kept = [axis for axis in range(len(step.out)) if axis not in axes]
    return kept[step.axis] if step.axis < len(kept) else None


def _squeeze(step: Step) -> int | None:
    if step.index != 0:
        return None
    axes = _axes(step, len(step.shape))
    if axes is None:
        axes = frozenset(axis for axis, size in enumerate(step.shape) if size == 1)
    return None if step.axis in axes else step.axis - sum(1 for axis in axes if axis < step.axis)


def _matmul(step: Step) -> int | None:
    rank, last = len(step.shape), len(step.shape) - 1
    if rank == 1:
        return None
    if step.index == 0:
        other = step.shapes[1] or ()
        if step.axis == last:
            return None
        return step.axis + len(step.out) - rank + (1 if len(other) == 1 else 0)
    if step.index > 1 or step.axis == last - 1:
        return None
    return len(step.out) - 1 if step.axis == last else _aligned_right(step)


def _gemm(step: Step) -> int | None:
    if step.index == 2:
        return _aligned_right(step)
    transposed = bool(step.node.attributes.get_int("transA" if step.index == 0 else "transB", 0))
    is_row = (step.axis == 0) != transposed
    if step.index == 0:
        return 0 if is_row else None
    return None if is_row else 1


def _gather(step: Step) -> int | None:
    data = step.shapes[0] or ()
    axis = step.node.attributes.get_int("axis", 0) % max(1, len(data))
    if step.index == 1:
        return axis + step.axis
    if step.axis == axis:
        return None
    indices = step.shapes[1] or ()
    return step.axis if step.axis < axis else step.axis + len(indices) - 1


def _concat(step: Step) -> int | None:
    axis = step.node.attributes.get_int("axis", 0) % max(1, len(step.out))
    return None if step.axis == axis and step.out[axis] != step.size else step.axis


def _reduce(step: Step) -> int | None:
    axes = _axes(step, len(step.shape))
    if step.node.op_type in ("ArgMax", "ArgMin"):
        axes = frozenset({step.node.attributes.get_int("axis", 0) % max(1, len(step.shape))})
    keep = bool(step.node.attributes.get_int("keepdims", 1))
    if step.index != 0 or axes is None or step.axis in axes:
        return None
    return step.axis if keep else step.axis - sum(1 for axis in axes if axis < step.axis)


def _flatten(step: Step) -> int | None:
    axis = step.node.attributes.get_int("axis", 1)
    return 0 if step.axis == 0 and axis == 1 else _reshape(step)


def _recurrent(step: Step) -> int | None:
    """X [T, B, I] -> Y [T, directions, B, H]."""
    if step.index != 0 or step.node.attributes.get_int("layout", 0) != 0:
        return None
    return {0: 0, 1: 2}.get(step.axis)


def _attention(step: Step) -> int | None:
    """Samples and query positions pass; keys are summed over."""
    if step.index != 0:
        return 0 if step.axis == 0 and step.index <= 2 else None
    return step.axis if step.axis in (0, len(step.shape) - 2) else None


def _einsum(step: Step) -> int | None:
    equation = step.node.attributes.get_string("equation", "").replace(" ", "")
    if "->" not in equation or "." in equation:
        return None
    left, right = equation.split("->")
    terms = left.split(",")
    letter = terms[step.index][step.axis : step.axis + 1] if step.index < len(terms) else ""
    return right.index(letter) if letter and letter in right else None


def _expand(step: Step) -> int | None:
    return _aligned_right(step) if step.index == 0 else None


def _gather_nd(step: Step) -> int | None:
    """Leading axes of the indices, and the shared batch axes of both inputs."""
    batch_dims = step.node.attributes.get_int("batch_dims", 0)
    if step.index == 0:
        return step.axis if step.axis < batch_dims else None
    return step.axis if step.axis < len(step.shape) - 1 else None


_GROUPS: tuple[tuple[str, Rule], ...] = (
    ("Conv ConvTranspose ConvInteger QLinearConv DeformConv MaxPool AveragePool LpPool", _samples_only),
    ("GlobalAveragePool GlobalMaxPool GlobalLpPool DepthToSpace SpaceToDepth", _samples_only),
    ("Shape Size Range ConstantOfShape NonZero Unique EyeLike Det", _nowhere),
    ("If Loop Scan Compress NonMaxSuppression RoiAlign", _nowhere),
    ("Slice Pad Tile Resize Upsample Split TopK Trilu CumSum", _data_only),
    ("LayerNormalization BatchNormalization LRN OneHot ScatterND GatherElements", _data_only),
    ("ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2", _reduce),
    ("ReduceLogSumExp ReduceSumSquare ReduceLogSum ArgMax ArgMin", _reduce),
    ("MatMul MatMulInteger QLinearMatMul", _matmul),
    ("LSTM GRU RNN", _recurrent),
    ("Transpose", _transpose),
    ("Reshape", _reshape),
    ("Flatten", _flatten),
    ("Unsqueeze", _unsqueeze),
    ("Squeeze", _squeeze),
    ("Gemm", _gemm),
    ("Gather", _gather),
    ("GatherND", _gather_nd),
    ("Concat", _concat),
    ("Attention", _attention),
    ("Einsum", _einsum),
    ("Expand", _expand),
)
RULES: Mapping[str, Rule] = {op: rule for ops, rule in _GROUPS for op in ops.split()}
"""Operators that are not elementwise."""


def _axes(step: Step, rank: int) -> frozenset[int] | None:
    """The axes a node names, as attribute or constant input; ``None`` when it names none."""
    axes = tuple(step.node.attributes.get_ints("axes", ()))
    if not axes and len(step.node.inputs) > 1:
        array = constant_array(step.node.inputs[1])
        axes = () if array is None else tuple(int(axis) for axis in np.atleast_1d(array))
    return frozenset(axis % rank for axis in axes) if axes and rank else None
