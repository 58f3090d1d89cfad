"""How a product with a stored weight becomes two thin ones, and what that saves.

    product     y = x W                   ->  y = (x A) B                    W [K, N], A [K, r], B [r, N]
    channels    y = Conv(x, W)            ->  Conv 1 x 1 (Conv(x, A), B)     A [r, C, kh, kw], B [M, r, 1, 1]
    spatial     y = Conv(x, W)            ->  Conv(Conv(x, A), B)            A [r, C, kh, 1],  B [M, r, 1, kw]

A form writes the weight as one matrix, rows for what the first factor reads. A spatial matrix holds, for each
column of pixels, what its vertical patch contributes to each horizontal place of the second kernel; an error
in it is at least the error in the sums (Jaderberg et al. 2014, arXiv:1405.3866).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.graph.edit import constant_array, insert_before, new_initializer
from adapass.moments.sources import Source, Window
from adapass.passes.prune.linear_ops import LinearOp, Weights, linear_ops, stored

Doubles = npt.NDArray[np.float64]


class Form(StrEnum):
    """Which way a weight is cut in two."""

    PRODUCT = "rank"
    CHANNELS = "channels"
    SPATIAL = "spatial"


@dataclass(frozen=True, slots=True)
class Thin:
    """A form for one product. ``work(rank)`` below ``whole`` is a saving, in multiplications a result."""

    form: Form
    op: LinearOp
    rows: int
    columns: int
    whole: float
    each: float
    """Work of one unit of rank."""
    source: Source
    """Rows that the first factor reads."""

    @property
    def centred(self) -> bool:
        """Whether a mean error can be put into the bias (at borders a spatial one differs by the padding)."""
        return self.op.bias is not None and self.form is not Form.SPATIAL

    def ranks(self, shares: tuple[float, ...], multiple: int) -> tuple[int, ...]:
        """For each share of the work that may stay, the largest rank that is a ``multiple``, no repeats."""
        most = min(self.rows, self.columns) - 1
        found = [int(min(share * self.whole / self.each, most)) // multiple * multiple for share in shares]
        return tuple(rank for rank in dict.fromkeys(found) if self.allows(rank, multiple))

    def allows(self, rank: int, multiple: int) -> bool:
        """Whether a rank is a step, loses something, and saves work."""
        steps = rank >= multiple and rank % multiple == 0
        return steps and rank < min(self.rows, self.columns) and rank * self.each < self.whole


def find_forms(model: ir.Model) -> Iterator[tuple[ir.Node, tuple[Thin, ...]]]:
    """The forms of every product, in execution order."""
    nodes = {node.outputs[0].name: node for node in model.graph}
    for op in linear_ops(model):
        node = nodes[op.node]
        shape = stored(model, op.weight).shape
        yield node, tuple(_forms(node, op, shape))


def _forms(node: ir.Node, op: LinearOp, shape: tuple[int, ...]) -> Iterator[Thin]:
    if node.op_type != "Conv":
        rows, columns = (shape[1], shape[0]) if op.transposed else shape
        yield Thin(Form.PRODUCT, op, rows, columns, rows * columns, rows + columns, op.source)
        return
    outputs, inputs, *kernel = shape
    taps = int(np.prod(kernel))
    rows, whole = inputs * taps, outputs * inputs * taps
    yield Thin(Form.CHANNELS, op, rows, outputs, whole, rows + outputs, op.source)
    window = op.source.window
    if len(kernel) != 2 or min(kernel) < 2 or window is None or window.auto_pad != "NOTSET":
        return
    high, wide = kernel
    vertical = replace(op.source, window=_vertical(window))
    each = inputs * high * window.strides[1] + outputs * wide
    yield Thin(Form.SPATIAL, op, inputs * high, outputs * wide, whole, each, vertical)


def _vertical(window: Window) -> Window:
    top, _, bottom, _ = window.pads
    return Window(
        (window.kernel[0], 1), (window.strides[0], 1), (window.dilations[0], 1), (top, 0, bottom, 0)
    )


def matrix_of(thin: Thin, weight: Weights) -> Doubles:
    """[rows, columns]"""
    if thin.form is not Form.SPATIAL:
        return thin.op.matrix(weight)
    wide = weight.astype(np.float64)
    return wide.transpose(1, 2, 3, 0).reshape(thin.rows, thin.columns)


def form_of(first: Array, second: Array) -> Form:
    """The form that two stored factors are in."""
    if first.ndim < 4:
        return Form.CHANNELS if first.ndim == 3 else Form.PRODUCT
    return Form.CHANNELS if set(second.shape[2:]) == {1} else Form.SPATIAL


def product_of(thin: Thin, first: Array, second: Array) -> Doubles:
    """What two stored factors multiply to, [rows, columns] like ``matrix_of``."""
    left, right = first.astype(np.float64), second.astype(np.float64)
    left = left if left.ndim == 2 else left.reshape(len(left), -1).T
    if thin.form is Form.SPATIAL:
        return left @ right[:, :, 0, :].transpose(1, 2, 0).reshape(left.shape[1], -1)
    right = right.reshape(right.shape[0], right.shape[1])
    return left @ (right.T if thin.op.transposed else right) * thin.op.scale


def lay_out(graph: ir.Graph, node: ir.Node, thin: Thin, rank: int) -> tuple[ir.Value, ir.Value]:
    """Put two thin products in the place of ``node``, which becomes the second; their weights are zero."""
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None  # a linear operator has both
    array = constant_array(weight)
    assert array is not None  # a linear operator has a stored weight
    name = weight.name if weight is not None else "weight"
    shapes = _shapes(node, thin, rank, array.shape)
    first, second = (
        new_initializer(graph, f"{name}_{part}", np.zeros(shape, array.dtype))
        for part, shape in zip(("first", "second"), shapes, strict=True)
    )
    attributes, rest = _attributes(node, thin)
    inner = ir.node("Conv" if node.op_type == "Conv" else "MatMul", [data, first], attributes)
    insert_before(node, [inner])
    node.replace_input_with(0, inner.outputs[0])
    node.replace_input_with(1, second)
    for key in ("strides", "pads", "dilations", "kernel_shape", "auto_pad") if rest is not None else ():
        node.attributes.pop(key, None)
    for key, numbers in (rest or {}).items():
        node.attributes[key] = ir.AttrInt64s(key, numbers)
    return first, second


def factors_as_stored(
    thin: Thin, node: ir.Node, left: Doubles, right: Doubles, like: tuple[Array, Array]
) -> tuple[Array, Array]:
    """``left`` [rows, r] and ``right`` [r, columns] in the shapes and types of the weights."""
    rank = left.shape[1]
    first = left if node.op_type != "Conv" else left.T
    if thin.form is Form.SPATIAL:
        outputs, wide = like[1].shape[0], like[1].shape[3]
        second = right.reshape(rank, wide, outputs).transpose(2, 0, 1)
    else:
        scaled = right / thin.op.scale
        second = scaled.T if thin.op.transposed else scaled
    return (
        np.ascontiguousarray(first.reshape(like[0].shape)).astype(like[0].dtype),
        np.ascontiguousarray(second.reshape(like[1].shape)).astype(like[1].dtype),
    )


def _shapes(
    node: ir.Node, thin: Thin, rank: int, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if node.op_type != "Conv":
        second = (thin.columns, rank) if thin.op.transposed else (rank, thin.columns)
        return (thin.rows, rank), second
    if thin.form is Form.CHANNELS:
        return (rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))
    return (rank, shape[1], shape[2], 1), (shape[0], rank, 1, shape[3])


Attributes = dict[str, list[int]]


def _attributes(node: ir.Node, thin: Thin) -> tuple[dict[str, list[int] | str], Attributes | None]:
    """Attributes of the first convolution, and what the second gets instead of its own."""
    window = thin.op.source.window
    if node.op_type != "Conv" or window is None:
        return {}, None
    if thin.form is Form.CHANNELS:
        kept: dict[str, list[int] | str] = {
            "strides": list(window.strides),
            "dilations": list(window.dilations),
        }
        kept |= {"auto_pad": window.auto_pad} if window.auto_pad != "NOTSET" else {"pads": list(window.pads)}
        return kept, {}
    top, left, bottom, right = window.pads
    upright: dict[str, list[int] | str] = {
        "strides": [window.strides[0], 1],
        "dilations": [window.dilations[0], 1],
        "pads": [top, 0, bottom, 0],
    }
    level = {
        "strides": [1, window.strides[1]],
        "dilations": [1, window.dilations[1]],
        "pads": [0, left, 0, right],
    }
    return upright, level
