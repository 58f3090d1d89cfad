"""Work: what each node computes and moves, for given sizes.

Counts, not times: a target turns them into seconds. Multiply and add count as two operations.
Values that only change their view (``Reshape``) move nothing; a lookup moves the rows it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from operator import add
from types import MappingProxyType
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, fixed_shape, name_of
from adapass.analyses.shapes import Shapes
from adapass.facts import Fact, FactCache
from adapass.graph.edit import constant_tensor

TYPICAL_BATCH = 1
TYPICAL_TOKENS = 64
"""The sizes at which shares of the work are told when nobody gives sizes."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodeWork:
    """Operations and bytes of one node, or a sum of them."""

    flops: int = 0
    bytes_read: int = 0
    """Activations read."""
    bytes_written: int = 0
    weight_bytes: int = 0
    """Stored constants read."""

    def __add__(self, other: NodeWork) -> NodeWork:
        return NodeWork(
            self.flops + other.flops,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.weight_bytes + other.weight_bytes,
        )


@dataclass(frozen=True, slots=True)
class Work(Fact):
    """Work of the live nodes of the main graph, by position in ``Dataflow.nodes``."""

    typical: tuple[NodeWork, ...] = field(repr=False)
    """At ``TYPICAL_BATCH`` samples of ``TYPICAL_TOKENS`` tokens (where these are not fixed)."""
    flow: Dataflow = field(repr=False)
    shapes: Shapes = field(repr=False)

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow, shapes = facts.get(Dataflow), facts.get(Shapes)
        return cls(_all(flow, shapes, TYPICAL_BATCH, TYPICAL_TOKENS), flow, shapes)

    def at(self, batch: int, tokens: int) -> tuple[NodeWork, ...]:
        """Work per node for ``batch`` samples of ``tokens`` tokens."""
        return _all(self.flow, self.shapes, batch, tokens)

    def of(self, nodes: Iterable[int], batch: int | None = None, tokens: int | None = None) -> NodeWork:
        """The sum over ``nodes``, at the typical sizes unless given."""
        work = self.typical
        if batch is not None or tokens is not None:
            work = self.at(batch or TYPICAL_BATCH, tokens or TYPICAL_TOKENS)
        return total(work[node] for node in nodes)


def total(parts: Iterable[NodeWork]) -> NodeWork:
    return reduce(add, parts, NodeWork())


def _all(flow: Dataflow, shapes: Shapes, batch: int, tokens: int) -> tuple[NodeWork, ...]:
    sizes = {name: shape for name in shapes.dims if (shape := shapes.at(name, batch, tokens)) is not None}
    return tuple(_work(flow, shapes, sizes, index) for index in range(len(flow.nodes)))


def _work(flow: Dataflow, shapes: Shapes, sizes: Mapping[str, Shape], index: int) -> NodeWork:
    node = flow.nodes[index]
    if node.op_type in VIEWS:
        return NodeWork()
    call = _Call(
        node, [_size(value, sizes) for value in node.inputs], [_size(value, sizes) for value in node.outputs]
    )
    written = sum(_bytes(value, shapes, sizes) for value in node.outputs)
    if node.op_type in LOOKUPS:
        return NodeWork(0, written, written, 0)
    return NodeWork(
        flops=FLOPS.get(node.op_type, _elementwise)(call),
        bytes_read=sum(_bytes(value, shapes, sizes) for value in flow.reads[index]),
        bytes_written=written,
        weight_bytes=sum(stored_bytes(value) for value in flow.constants[index]),
    )


def flops_of(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    """Operations of one node whose inputs and outputs have these shapes."""
    if node.op_type in VIEWS or node.op_type in LOOKUPS:
        return 0
    return FLOPS.get(node.op_type, _elementwise)(_Call(node, [*inputs], [*outputs]))


def stored_bytes(value: ir.Value) -> int:
    """Bytes behind a constant, also one that is computed (at load time) from stored ones."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.nbytes
    size, dtype = _size(value, {}), value.dtype
    return 0 if size is None or dtype is None else int(prod(size) * dtype.itemsize)


def _size(value: ir.Value | None, sizes: Mapping[str, Shape]) -> Shape | None:
    if value is None:
        return None
    known = sizes.get(name_of(value))
    return known if known is not None else fixed_shape(value)


def _bytes(value: ir.Value, shapes: Shapes, sizes: Mapping[str, Shape]) -> int:
    shape, dtype = _size(value, sizes), shapes.dtypes.get(name_of(value))
    return 0 if shape is None or dtype is None else int(prod(shape) * dtype.itemsize)


@dataclass(frozen=True, slots=True)
class _Call:
    node: ir.Node
    inputs: list[Shape | None]
    outputs: list[Shape | None]

    def shape(self, index: int) -> Shape:
        return (self.inputs[index] if index < len(self.inputs) else None) or ()

    @property
    def out(self) -> int:
        return prod(self.outputs[0]) if self.outputs and self.outputs[0] is not None else 0

    @property
    def largest(self) -> int:
        return max((prod(shape) for shape in [*self.inputs, *self.outputs] if shape is not None), default=0)


def _nothing(call: _Call) -> int:
    del call
    return 0


def _elementwise(call: _Call) -> int:
    return call.largest


def _several(count: int) -> Callable[[_Call], int]:
    """Operators that compile to ``count`` operations an element (exponentials count as one)."""
    return lambda call: count * call.largest


def _conv(weight: int) -> Callable[[_Call], int]:
    """Weight [M, C/group, kernel...]: two operations per tap and output."""
    return lambda call: 2 * call.out * prod(call.shape(weight)[1:])


def _conv_transpose(call: _Call) -> int:
    return 2 * prod(call.shape(0)) * prod(call.shape(1)[1:])


def _matmul(call: _Call) -> int:
    left = call.shape(0)
    return 2 * call.out * (left[-1] if left else 0)


def _gemm(call: _Call) -> int:
    left = call.shape(0)
    return 2 * call.out * left[0 if call.node.attributes.get_int("transA", 0) else -1] if left else 0


def _attention(call: _Call) -> int:
    """Q [..., Tq, D], K [..., Tk, D]: two products of Tq x Tk x D each per head and sample."""
    query, key = call.shape(0), call.shape(1)
    return 4 * prod(query) * key[-2] if len(query) >= 3 and len(key) >= 3 else 0


def _recurrent(gates: int) -> Callable[[_Call], int]:
    """X [T, B, I], W [D, gates * H, I], R [D, gates * H, H]."""

    def count(call: _Call) -> int:
        steps, weight = call.shape(0), call.shape(1)
        if len(steps) != 3 or len(weight) != 3:
            return 0
        hidden = weight[1] // gates
        return 2 * steps[0] * steps[1] * weight[0] * weight[1] * (weight[2] + hidden)

    return count


def _einsum(call: _Call) -> int:
    attribute = call.node.attributes.get("equation")
    terms = (
        (attribute.as_string() if attribute is not None else "").replace(" ", "").split("->")[0].split(",")
    )
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, call.inputs, strict=False):
        sizes.update(zip(term, shape or (), strict=False))
    return 2 * prod(sizes.values()) if sizes else 0


def _pool(call: _Call) -> int:
    return call.out * prod(call.node.attributes.get_ints("kernel_shape", ()))


VIEWS = frozenset(
    {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant", "Dropout"}
)
LOOKUPS = frozenset({"Gather", "Slice", "GatherND", "GatherElements"})
MOVES = (
    "Transpose", "Concat", "Split", "Expand", "Tile", "Pad", "Cast", "DepthToSpace", "SpaceToDepth",
    "ScatterND", "ScatterElements", "ConstantOfShape", "Range", "Where",
)  # fmt: skip

FLOPS: Mapping[str, Callable[[_Call], int]] = MappingProxyType(
    {
        **dict.fromkeys(MOVES, _nothing),
        **dict.fromkeys(("Conv", "ConvInteger"), _conv(1)),
        **dict.fromkeys(("MatMul", "MatMulInteger", "FusedMatMul"), _matmul),
        **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
        **dict.fromkeys(("Softmax", "LogSoftmax", "BatchNormalization"), _several(4)),
        **dict.fromkeys(("LayerNormalization", "RMSNormalization", "InstanceNormalization"), _several(8)),
        **dict.fromkeys(("GroupNormalization", "Gelu", "Erf", "Tanh", "Sigmoid", "LRN"), _several(8)),
        "QLinearConv": _conv(3),
        "QLinearMatMul": _matmul,
        "ConvTranspose": _conv_transpose,
        "Gemm": _gemm,
        "Attention": _attention,
        "Einsum": _einsum,
        "LSTM": _recurrent(4),
        "GRU": _recurrent(3),
        "RNN": _recurrent(1),
    }
)
