"""Which values are cheap enough to cross a cut beside the main one: masks, positions, sizes.

A side value depends on the sizes of the inputs only (positions, shapes), or is computed from their
content without any learned layer, with a few percent of the model's work at most and lookups into under one
percent of its weights (masks). Which tokens are left, and masks taken at them, are side values too, although
main ones decide it. Everything else is *main*: the activations that an exit would save.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import RANDOM, Dataflow, fixed_shape
from adapass.analyses.work import Work, stored_bytes
from adapass.facts import Fact, FactCache
from adapass.graph.tensors import subgraphs_of
from adapass.ops import is_bookkeeping, is_token_operator

MOST_WORK = 0.05
"""Share of the operations; in real models masks take far below one percent, in test models more."""
MOST_WEIGHTS = 0.01
LEARNED = frozenset(
    {
        "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "Gemm", "LSTM", "GRU", "RNN",
        "QLinearMatMul", "Attention", "MultiHeadAttention", "QAttention",
    }
)  # fmt: skip
"""Operators that carry the main computation wherever they occur."""
SIZES = frozenset({"Shape", "Size"})
PRODUCTS = frozenset({"MatMul", "MatMulInteger", "Einsum", "FusedMatMul"})


@dataclass(frozen=True, slots=True)
class SideValues(Fact):
    """The split of the live nodes into main ones and side ones."""

    main: frozenset[int] = field(repr=False)
    """Positions in ``Dataflow.nodes``."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow, work = facts.get(Dataflow), facts.get(Work)
        flops = [part.flops for part in work.typical]
        weights = {value: _learned_bytes(value) for values in flow.constants for value in values}
        most_flops, most_bytes = MOST_WORK * sum(flops), MOST_WEIGHTS * sum(weights.values())
        content = _content(flow)
        main: set[int] = set()
        for index, node in enumerate(flow.nodes):
            if index not in content:
                continue
            inherited = any(flow.producer.get(value) in main for value in _carrying(flow, index))
            if (
                inherited
                or is_learned(flow, index)
                or subgraphs_of(node)
                or not (node.domain in ("", "ai.onnx") or is_token_operator(node))
            ):
                main.add(index)
                continue
            cone = _cone(flow, index, content)
            tables = {value for part in cone for value in flow.constants[part]}
            if (
                sum(flops[part] for part in cone) > most_flops
                or sum(weights[it] for it in tables) > most_bytes
            ):
                main.add(index)
        return cls(frozenset(main))


def _learned_bytes(value: ir.Value) -> int:
    """Whole numbers (axes, indices) are structure, not weights."""
    is_structure = value.dtype is not None and not value.dtype.is_floating_point()
    return 0 if is_structure else stored_bytes(value)


def _content(flow: Dataflow) -> frozenset[int]:
    """Nodes whose result depends on the entries of a graph input, not only on its size."""
    found: set[int] = set()
    for index, node in enumerate(flow.nodes):
        fresh = node.op_type in RANDOM or any(value not in flow.producer for value in flow.reads[index])
        passed = any(before in found for before in flow.graph.predecessors(index))
        if node.op_type not in SIZES and (fresh or passed):
            found.add(index)
    return frozenset(found)


def _carrying(flow: Dataflow, index: int) -> list[ir.Value]:
    """What a node reads, without what only says which tokens are left."""
    return [value for value in flow.reads[index] if not is_bookkeeping(value)]


def _cone(flow: Dataflow, index: int, content: frozenset[int]) -> frozenset[int]:
    """A side node and what it computes from, as far as that depends on content."""
    seen = {index}
    stack = [index]
    while stack:
        for before in [flow.producer.get(value, -1) for value in _carrying(flow, stack.pop())]:
            if before in content and before not in seen:
                seen.add(before)
                stack.append(before)
    return frozenset(seen)


def is_learned(flow: Dataflow, index: int) -> bool:
    """Whether a node multiplies by stored weights (or attends); cuts are chosen between such nodes."""
    node = flow.nodes[index]
    if node.op_type in LEARNED:
        return True
    return node.op_type in PRODUCTS and any(_is_matrix(value) for value in flow.constants[index])


def _is_matrix(value: ir.Value) -> bool:
    """Not the vector of frequencies that rotary positions multiply by."""
    shape = fixed_shape(value)
    return shape is not None and len(shape) >= 2 and min(shape[-2:]) > 1
