"""Nodes that token passes write, beyond what one output and standard operators need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import fresh_name
from adapass.ops import DOMAIN, GATHER_TOKENS, MERGE_TOKENS, SCATTER_TOKENS, SELECT_TOKENS, add_function
from adapass.passes.exits.nodes import Builder

PREFIX = "adapass_tokens"


class TokenBuilder(Builder):
    """Writes nodes behind what they read, and gives them types and shapes where both are known."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model, PREFIX)
        self._model = model

    def call(self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[str]) -> list[ir.Value]:
        """One adaptive operator; its outputs are named after ``outputs``."""
        add_function(self._model, name)
        node = ir.node(name, inputs, domain=DOMAIN, num_outputs=len(outputs))
        for value, base in zip(node.outputs, outputs, strict=True):
            value.name = fresh_name(self.graph, f"{self.prefix}_{base}")
        self._place(node)
        return list(node.outputs)

    def select(self, score: ir.Value, count: ir.Value) -> tuple[ir.Value, ir.Value]:
        kept, valid = self.call(SELECT_TOKENS, [score, count], ["kept", "valid"])
        kept.type, valid.type = ir.TensorType(ir.DataType.INT64), ir.TensorType(ir.DataType.BOOL)
        return kept, valid

    def gather(self, x: ir.Value, kept: ir.Value) -> ir.Value:
        (y,) = self.call(GATHER_TOKENS, [x, kept], ["gathered"])
        y.type = x.type
        return y

    def scatter(self, rest: ir.Value, kept: ir.Value, valid: ir.Value, y: ir.Value) -> ir.Value:
        (z,) = self.call(SCATTER_TOKENS, [rest, kept, valid, y], ["scattered"])
        z.type, z.shape = rest.type, rest.shape
        return z

    def merge(
        self, x: ir.Value, key: ir.Value, size: ir.Value, places: tuple[ir.Value, ir.Value, ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        y, total = self.call(MERGE_TOKENS, [x, key, size, *places], ["merged", "sizes"])
        y.type, total.type = x.type, size.type
        return y, total

    def sorted(self, value: ir.Value, count: ir.Value) -> ir.Value:
        """All ``count`` (int64 ``[1]``) entries along axis 1, in falling order."""
        node = ir.node("TopK", [value, count], {"axis": 1}, num_outputs=2)
        node.outputs[0].name, node.outputs[1].name = self._fresh(), self._fresh()
        self._place(node)
        return node.outputs[0]

    def integer(self, number: int) -> ir.Value:
        return self.constant(np.int64(number))

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def number(self, number: float) -> ir.Value:
        return self.constant(np.float32(number))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One size as an int64 list of one."""
        return self.once(
            f"size {axis} of {value.name}",
            lambda: self.op("Slice", self.op("Shape", value), self.integers(axis), self.integers(axis + 1)),
        )

    def turned(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        if list(order) == sorted(order):
            return value
        return self.op("Transpose", value, perm=list(order))

    def slice(self, value: ir.Value, axis: int, start: int, end: int) -> ir.Value:
        return self.op("Slice", value, self.integers(start), self.integers(end), self.integers(axis))

    def first_along(self, value: ir.Value, axis: int) -> ir.Value:
        """The first entry along an axis, which stays: a ``Gather``, whose size inference knows."""
        return self.op("Gather", value, self.integers(0), axis=axis)

    def bools(self, value: ir.Value) -> ir.Value:
        """``value`` as bool: true where it is not zero."""
        if value.dtype == ir.DataType.BOOL:
            return value
        return self.once(f"bool {value.name}", lambda: self.op("Cast", value, to=int(ir.DataType.BOOL)))

    def put(self, node: ir.Node) -> ir.Value:
        """A node made elsewhere, with one output."""
        node.outputs[0].name = self._fresh()
        self._place(node)
        return node.outputs[0]
