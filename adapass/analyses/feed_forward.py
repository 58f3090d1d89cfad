"""FeedForwards: two learned products with an activation between them, inside a residual branch.

h = MatMul(x, w1) + b1 ; a = Gelu(h)                ; y = MatMul(a, w2) + b2 ; stream + y
h = MatMul(x, w1), g = MatMul(x, wg) ; a = SiLU(g)*h ; y = MatMul(a, w2)     ; stream + y      (gated)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, fixed_shape, name_of
from adapass.analyses.side_values import SideValues, is_learned
from adapass.facts import Fact, FactCache

PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger"})
CURVED = frozenset(
    {
        "Gelu", "Relu", "Erf", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "LeakyRelu",
        "Elu", "Selu", "Celu", "PRelu", "Softplus", "Clip",
    }
)  # fmt: skip
PLAIN = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Cast", "Identity", "Reshape", "Dropout", "Squeeze", "Unsqueeze",
        "Split", "Slice", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    }
)  # fmt: skip
VIEWS = frozenset({"Reshape", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""What may lie between the stream and a product without making it another value."""
MOST_NODES = 40


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One feed-forward part, by the names of its values."""

    entry: str
    """What the first product reads (behind the normalisation in a pre-norm model)."""
    exit: str
    """The result of the second product, before its bias and before it is added to the stream."""
    hidden: int | None
    """Number of neurons."""
    gated: bool
    first: tuple[int, ...]
    """Positions in ``Dataflow.nodes`` of the products that widen (two when gated by a second one)."""
    second: int
    """Position of the product that narrows."""
    nodes: tuple[int, ...]
    """All positions from the first to the second product."""


@dataclass(frozen=True, slots=True)
class FeedForwards(Fact):
    """In execution order."""

    parts: tuple[FeedForward, ...]

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow = facts.get(Dataflow)
        look = _Look(flow, facts.get(SideValues).main)
        found = (look.part(index) for index in range(len(flow.nodes)))
        return cls(tuple(part for part in found if part is not None))


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    main: frozenset[int]

    def part(self, second: int) -> FeedForward | None:
        """The feed-forward part that ends with the product at ``second``."""
        if not self._is_product(second):
            return None
        first, between = self._widening(second)
        entries = {self._source(index) for index in first}
        if len(entries) != 1 or not 1 <= len(first) <= 2 or not self._curved(between):
            return None
        entry = entries.pop()
        if entry is None or not self._added_to_stream(second, entry):
            return None
        return FeedForward(
            entry=name_of(entry),
            exit=name_of(self.flow.nodes[second].outputs[0]),
            hidden=self._width(second),
            gated=len(first) == 2 or self._halves(between),
            first=tuple(first),
            second=second,
            nodes=tuple(sorted({*first, *between, second})),
        )

    def _is_product(self, index: int) -> bool:
        return self.flow.nodes[index].op_type in PRODUCTS and is_learned(self.flow, index)

    def _widening(self, second: int) -> tuple[list[int], list[int]]:
        """Back from the second product through elementwise nodes; nothing when anything else is met.

        A scale computed at run time leads to the input of a first product: not a way of its own.
        """
        first: set[int] = set()
        between: set[int] = set()
        stack = self._before(second)
        while stack:
            index = stack.pop()
            if self._is_product(index):
                first.add(index)
                continue
            if self.flow.nodes[index].op_type == "DynamicQuantizeLinear" and index not in self._before(
                second
            ):
                continue
            if self.flow.nodes[index].op_type not in CURVED | PLAIN or len(between) > MOST_NODES:
                return [], []
            if index not in between:
                between.add(index)
                stack.extend(self._before(index))
        return sorted(first), sorted(between)

    def _before(self, index: int) -> list[int]:
        return [before for before in sorted(self.flow.graph.predecessors(index)) if before in self.main]

    def _source(self, product: int) -> ir.Value | None:
        """What a product reads, before it is flattened or quantized."""
        value = self.flow.nodes[product].inputs[0]
        while value is not None and value in self.flow.producer:
            maker = self.flow.nodes[self.flow.producer[value]]
            if maker.op_type not in VIEWS:
                break
            value = maker.inputs[0]
        return value

    def _curved(self, between: list[int]) -> bool:
        return any(self.flow.nodes[index].op_type in CURVED for index in between)

    def _halves(self, between: list[int]) -> bool:
        """Gate and value from one wide product, cut apart and multiplied."""
        return any(self.flow.nodes[index].op_type in ("Split", "Slice") for index in between)

    def _added_to_stream(self, second: int, entry: ir.Value) -> bool:
        """Whether the result is added to what the entry was computed from, or to its sibling."""
        index = second
        for _ in range(6):
            readers = [reader for reader in self.flow.graph.successors(index) if reader in self.main]
            if len(readers) != 1 or self.flow.nodes[readers[0]].op_type not in PLAIN:
                return False
            others = [before for before in self._before(readers[0]) if before != index]
            if others and self.flow.nodes[readers[0]].op_type == "Add":
                return self._related(others[0], entry)
            index = readers[0]
        return False

    def _related(self, other: int, entry: ir.Value) -> bool:
        """The other summand lies on the way to the entry, or both come from the same value."""
        made = self.flow.producer.get(entry)
        if made is None:
            return False
        return other in self._near(made) or bool(self._near(other) & self._near(made))

    def _near(self, index: int) -> frozenset[int]:
        """The node and what lies at most a written-out normalisation before it."""
        seen = {index}
        level = [index]
        for _ in range(10):
            level = [before for node in level for before in self._before(node) if before not in seen]
            seen.update(level)
        return frozenset(seen)

    def _width(self, second: int) -> int | None:
        node = self.flow.nodes[second]
        weight = node.inputs[1]
        shape = fixed_shape(weight) if weight is not None else None
        if shape is None or len(shape) < 2:
            return None
        is_transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        return shape[-1] if is_transposed else shape[-2]
