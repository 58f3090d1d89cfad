"""AttentionCores: softmax(q k^T * scale + mask) v, written out or as one operator.

scores = MatMul(q, kT) ; [Mul, Div scale] ; [Add, Where mask] ; Softmax ; MatMul(probabilities, v)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Dim, Shapes
from adapass.analyses.side_values import SideValues
from adapass.facts import Fact, FactCache

BEFORE = frozenset(
    {"Mul", "Div", "Add", "Sub", "Where", "Cast", "Clip", "Tanh", "Identity", "Max", "Min", "Reshape"}
)
"""What may lie between the product of queries and keys and the softmax (``Reshape``: windows of an image)."""
AFTER = frozenset({"Cast", "Mul", "Where", "Dropout", "Identity", "IsNaN", "Reshape"})
MOST_STEPS = 12


@dataclass(frozen=True, slots=True)
class AttentionCore:
    """One attention, by the names of its values."""

    query: str
    key: str
    """As multiplied: transposed for the written-out form."""
    value: str
    context: str
    """The weighted sum of the values, before heads are joined."""
    masks: tuple[str, ...]
    """Values added to or selecting the scores, nearest the softmax first."""
    heads: int | None
    """``None`` where heads are folded into the batch."""
    head_size: int | None
    nodes: tuple[int, ...]
    """Positions in ``Dataflow.nodes``, product of queries and keys to product with the values."""


@dataclass(frozen=True, slots=True)
class AttentionCores(Fact):
    """In execution order."""

    cores: tuple[AttentionCore, ...]

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        look = _Look(facts.get(Dataflow), facts.get(Shapes), facts.get(SideValues).main)
        found = (look.core(index) for index in range(len(look.flow.nodes)))
        return cls(tuple(core for core in found if core is not None))


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    shapes: Shapes
    main: frozenset[int]

    def core(self, index: int) -> AttentionCore | None:
        """The attention whose softmax (or whole) is the node at ``index``."""
        node = self.flow.nodes[index]
        if node.op_type == "Attention" and node.domain == "":
            return self._fused(index)
        if node.op_type != "Softmax":
            return None
        above = self._product_above(index)
        below = self._product_below(index)
        if above is None or below is None:
            return None
        (product, masks, before), (mixing, after) = above, below
        query, key = self.flow.nodes[product].inputs[:2]
        values = self.flow.nodes[mixing].inputs[1]
        heads, size = self._heads(query)
        return AttentionCore(
            query=name_of(query),
            key=name_of(key),
            value=name_of(values),
            context=name_of(self.flow.nodes[mixing].outputs[0]),
            masks=tuple(masks),
            heads=heads,
            head_size=size,
            nodes=tuple(sorted({product, *before, index, *after, mixing})),
        )

    def _product_above(self, index: int) -> tuple[int, list[str], list[int]] | None:
        """Walk up from the softmax to a product of two computed values."""
        masks: list[str] = []
        passed: list[int] = []
        for _ in range(MOST_STEPS):
            source = self._main_input(index)
            if source is None:
                return None
            index = source
            node = self.flow.nodes[index]
            if node.op_type in ("MatMul", "Einsum"):
                return (index, masks, passed) if self._is_product(index) else None
            if node.op_type not in BEFORE:
                return None
            passed.append(index)
            masks.extend(self._masks_at(index))
        return None

    def _masks_at(self, index: int) -> list[str]:
        """Side values and constants that a node adds to the scores or selects them by."""
        node = self.flow.nodes[index]
        if node.op_type not in ("Add", "Where", "Sub"):
            return []
        side = [value for value in self.flow.reads[index] if self.flow.producer.get(value) not in self.main]
        return [name_of(value) for value in side]

    def _main_input(self, index: int) -> int | None:
        """The main node whose result a node works on; of several the first."""
        sources = [
            self.flow.producer[value] for value in self.flow.reads[index] if value in self.flow.producer
        ]
        sources = [source for source in sources if source in self.main]
        return sources[0] if sources else None

    def _is_product(self, index: int) -> bool:
        return len(self.flow.reads[index]) == 2

    def _product_below(self, index: int) -> tuple[int, list[int]] | None:
        """Walk down from the softmax to the product with the values, on whose left the probabilities are."""
        passed: list[int] = []
        for _ in range(MOST_STEPS):
            readers = [reader for reader in self.flow.graph.successors(index) if reader in self.main]
            products = [reader for reader in readers if self.flow.nodes[reader].op_type == "MatMul"]
            for product in products:
                if self._is_product(product) and self._comes_from(product, index):
                    return product, passed
            plain = [reader for reader in readers if self.flow.nodes[reader].op_type in AFTER]
            if not plain:
                return None
            index = plain[-1]
            passed.append(index)
        return None

    def _comes_from(self, product: int, index: int) -> bool:
        left = self.flow.nodes[product].inputs[0]
        return left is not None and self.flow.producer.get(left) == index

    def _heads(self, query: ir.Value | None) -> tuple[int | None, int | None]:
        """[B, heads, T, size]: fixed second axis and last axis."""
        dims = self.shapes.of(name_of(query))
        if dims is None or len(dims) < 3:
            return None, None
        return (_fixed(dims[1]) if len(dims) == 4 else None), _fixed(dims[-1])

    def _fused(self, index: int) -> AttentionCore:
        node = self.flow.nodes[index]
        query, key, values = node.inputs[:3]
        dims = self.shapes.of(name_of(query)) or ()
        heads = node.attributes.get_int("q_num_heads", 0)
        count = heads or (_fixed(dims[1]) if len(dims) == 4 else None)
        width = _fixed(dims[-1]) if dims else None
        if heads and width:
            width //= heads
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        return AttentionCore(
            query=name_of(query),
            key=name_of(key),
            value=name_of(values),
            context=name_of(node.outputs[0]),
            masks=(name_of(mask),) if mask is not None else (),
            heads=count,
            head_size=width,
            nodes=(index,),
        )


def _fixed(dim: Dim) -> int | None:
    return None if dim.batch or dim.tokens or dim.both else int(dim.constant)
