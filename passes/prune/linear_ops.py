"""Products with a stored weight, seen as one matrix: ``rows of x @ matrix + bias = rows of y``.

    MatMul (x, w)             matrix = w                            bias: of the Add behind it, if any
    Gemm (x, w, b)            matrix = w or w^T, times alpha        bias = b
    Conv (x, w, b)            matrix = w [M, C, ...] as [C * taps, M]; rows of x are patches

Where the result goes straight into a residual sum, the sum is what should stay the same:

    s = Add (r, y)            s is wanted, so y should be s - r, with r as it has become
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.graph.edit import constant_array
from adapass.moments.sources import Source, window_of

Doubles = npt.NDArray[np.float64]
Weights = npt.NDArray[np.floating[Any]]
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True, slots=True)
class LinearOp:
    """A product of the main graph whose weight is an initializer."""

    node: str
    """Its first output's name: the same before and after a removal."""
    source: Source
    """Rows of x."""
    weight: str
    taps: int
    """Columns of x for each input channel."""
    transposed: bool
    """Whether outputs are on the first axis of the weight."""
    scale: float
    """What the product of x and the weight is multiplied by."""
    bias: str | None
    """Initializer [M] that only this operator adds; ``None`` without."""
    output: Source
    """Rows of y, the bias added."""
    total: str | None
    """The residual sum behind y."""
    residual: str | None
    """What y is added to there."""
    shared: bool
    """Whether another node reads the weight too."""

    @property
    def input_axis(self) -> int:
        """The axis of the weight that is summed over."""
        return 1 if self.transposed else 0

    def matrix(self, stored: Weights) -> Doubles:
        """The weight as [width, outputs]."""
        wide = stored.astype(np.float64)
        flat = wide.reshape(len(wide), -1).T if self.transposed else wide
        return flat * self.scale

    def tensor(self, matrix: Doubles, like: Weights) -> Weights:
        """The inverse of ``matrix``, in the shape and type of ``like``."""
        flat = matrix / self.scale
        return np.ascontiguousarray((flat.T if self.transposed else flat).reshape(like.shape)).astype(
            like.dtype
        )

    def columns(self, positions: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Columns of x for some positions of the input axis."""
        starts = np.asarray(positions, np.int64)[:, None] * self.taps
        return (starts + np.arange(self.taps, dtype=np.int64)).reshape(-1)


def linear_ops(model: ir.Model) -> tuple[LinearOp, ...]:
    """All of them, in execution order."""
    found = [_linear_op(node) for node in model.graph if node.domain == "" and node.op_type in PRODUCTS]
    return tuple(op for op in found if op is not None)


def stored(model: ir.Model, name: str) -> Weights:
    """The contents of an initializer of floats."""
    array = constant_array(model.graph.initializers[name])
    assert array is not None  # an initializer has contents
    return cast("Weights", array)


def store(model: ir.Model, name: str, array: Array) -> None:
    """Replace the contents of an initializer."""
    model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(array), name=name)


def _linear_op(node: ir.Node) -> LinearOp | None:
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if not weight.is_initializer() or weight.is_graph_input() or weight.dtype not in FLOATS:
        return None
    if weight.shape is None or not all(isinstance(size, int) for size in weight.shape):
        return None
    sizes = [int(size) for size in weight.shape.numpy()]
    if data.is_initializer() or min(sizes, default=0) < 1:
        return None
    if node.op_type == "Conv":
        return _convolution(node, data, weight, sizes)
    return _product(node, data, weight, sizes)


def _convolution(node: ir.Node, data: ir.Value, weight: ir.Value, sizes: list[int]) -> LinearOp | None:
    if node.attributes.get_int("group", 1) != 1 or len(sizes) < 3:
        return None
    result = node.outputs[0]
    total, residual = _residual(result)
    return LinearOp(
        node=result.name or "",
        source=Source(data.name or "", 1, window_of(node, sizes[2:])),
        weight=weight.name or "",
        taps=math.prod(sizes[2:]),
        transposed=True,
        scale=1.0,
        bias=_own_bias(node.inputs[2] if len(node.inputs) > 2 else None, sizes[0]),
        output=Source(result.name or "", 1),
        total=total,
        residual=residual,
        shared=len(weight.uses()) > 1,
    )


def _product(node: ir.Node, data: ir.Value, weight: ir.Value, sizes: list[int]) -> LinearOp | None:
    if len(sizes) != 2 or node.attributes.get_int("transA", 0) != 0:
        return None
    transposed = bool(node.attributes.get_int("transB", 0))
    outputs = sizes[0] if transposed else sizes[1]
    result, bias = node.outputs[0], None
    if node.op_type == "Gemm" and node.attributes.get_float("beta", 1.0) == 1.0 and len(node.inputs) > 2:
        bias = _own_bias(node.inputs[2], outputs)
    elif node.op_type == "MatMul":
        result, bias = _with_bias(result, outputs)
    total, residual = _residual(result)
    return LinearOp(
        node=node.outputs[0].name or "",
        source=Source(data.name or "", -1),
        weight=weight.name or "",
        taps=1,
        transposed=transposed,
        scale=float(node.attributes.get_float("alpha", 1.0)) if node.op_type == "Gemm" else 1.0,
        bias=bias,
        output=Source(result.name or "", -1),
        total=total,
        residual=residual,
        shared=len(weight.uses()) > 1,
    )


def _own_bias(value: ir.Value | None, outputs: int) -> str | None:
    if value is None or not value.is_initializer() or len(value.uses()) != 1 or value.dtype not in FLOATS:
        return None
    if value.shape is None or list(value.shape) != [outputs]:
        return None
    return value.name


def _with_bias(result: ir.Value, outputs: int) -> tuple[ir.Value, str | None]:
    """The sum with the bias, where the product is read by nothing else."""
    adding = _only_add(result)
    if adding is None:
        return result, None
    bias = _own_bias(_other(adding, result), outputs)
    return (adding.outputs[0], bias) if bias is not None else (result, None)


def _residual(result: ir.Value) -> tuple[str | None, str | None]:
    """The sum with another activation, where the result is read by nothing else."""
    adding = _only_add(result)
    other = _other(adding, result) if adding is not None else None
    if adding is None or other is None or other.is_initializer() or other.shape is None:
        return None, None
    same = result.shape is not None and list(map(str, other.shape)) == list(map(str, result.shape))
    return (adding.outputs[0].name, other.name) if same else (None, None)


def _only_add(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader = next(iter(uses)).node
    here = reader.graph is value.graph and reader.domain == "" and reader.op_type == "Add"
    return reader if here and len(reader.inputs) == 2 else None


def _other(adding: ir.Node, value: ir.Value) -> ir.Value | None:
    first, second = adding.inputs
    return second if first is value else first
