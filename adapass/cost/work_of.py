"""What a model computes and moves, operation by operation, as runtimes run it.

Conversions around an 8-bit product are not operations of their own: the runtime computes

    DequantizeLinear(q), DequantizeLinear(w) -> Conv -> QuantizeLinear

as one integer convolution that reads and writes 8 bits. Charging a launch and a pass over memory for each
made 8 bits look slower than float on every described target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow
from adapass.analyses.work import NodeWork
from adapass.analyses.work import Work as WorkFact
from adapass.budgeted import Feeds
from adapass.cost.model import Work
from adapass.facts import FactCache

NUMBER_FORMATS: Final[Mapping[ir.DataType, str]] = MappingProxyType(
    {
        ir.DataType.DOUBLE: "f64",
        ir.DataType.FLOAT: "f32",
        ir.DataType.FLOAT16: "f16",
        ir.DataType.BFLOAT16: "bf16",
        ir.DataType.INT8: "i8",
        ir.DataType.UINT8: "i8",
    }
)
CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
INTEGER: Final = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
FUSING: Final = frozenset(
    {"Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"}
)
"""Operators that runtimes have as integer kernels with conversions around them."""


def works_of(model: ir.Model, feed: Feeds) -> Iterator[Work]:
    """The operations of ``model`` at the sizes of ``feed``."""
    fact = FactCache(model).get(WorkFact)
    shapes = [array.shape for array in feed.values() if array.ndim]
    batch = shapes[0][0] if shapes else 1
    tokens = next((shape[1] for shape in shapes if len(shape) in (2, 3)), 1)
    look = _Look(fact.flow)
    for index, work in enumerate(fact.at(batch, tokens)):
        yield look.work(index, work)


class _Look:
    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._integer = frozenset(index for index in range(len(flow.nodes)) if self._is_integer(index))

    def work(self, index: int, work: NodeWork) -> Work:
        node = self._flow.nodes[index]
        dtype = self._format(index)
        read, weights, written = work.bytes_read, work.weight_bytes, work.bytes_written
        if node.op_type in CONVERSIONS and self._is_fused(index):
            return Work(node.op_type, dtype, 0, 0, 0)
        if index in self._integer and node.op_type not in INTEGER:
            # In the graph the operands are float; in the kernel they are a quarter of that.
            read, weights = read // 4, weights // 4
            written = written // 4 if self._is_requantized(index) else written
        return Work(node.op_type, dtype, work.flops, read + weights, written)

    def _format(self, index: int) -> str:
        node = self._flow.nodes[index]
        if index in self._integer:
            return "i8"
        first = node.inputs[0] if node.inputs else None
        dtype = ir.DataType.FLOAT if first is None or first.dtype is None else first.dtype
        return NUMBER_FORMATS.get(dtype, "f32")

    def _is_integer(self, index: int) -> bool:
        node = self._flow.nodes[index]
        if node.op_type in INTEGER:
            return True
        operands = [value.producer() for value in node.inputs[:2] if value is not None]
        return node.op_type in FUSING and bool(operands) and all(_dequantizes(maker) for maker in operands)

    def _is_fused(self, index: int) -> bool:
        """Whether an integer kernel beside this conversion does it on the way."""
        node = self._flow.nodes[index]
        if node.op_type == "DequantizeLinear":
            readers = self._flow.readers.get(node.outputs[0], ())
            return bool(readers) and all(reader in self._integer for reader in readers)
        producer = self._flow.producer.get(node.inputs[0]) if node.inputs[0] is not None else None
        return producer is not None and self._makes_integer(producer)

    def _makes_integer(self, index: int) -> bool:
        """An integer kernel, or an activation behind one that is a bound on its result."""
        if index in self._integer:
            return True
        node = self._flow.nodes[index]
        before = (
            self._flow.producer.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        )
        return node.op_type in ("Relu", "Clip") and before in self._integer

    def _is_requantized(self, index: int) -> bool:
        readers = self._flow.readers.get(self._flow.nodes[index].outputs[0], ())
        return bool(readers) and all(self._flow.nodes[r].op_type == "QuantizeLinear" for r in readers)


def _dequantizes(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"
