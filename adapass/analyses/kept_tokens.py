"""KeptTokens: where a model runs on some of its tokens, and which entries there are real ones.

x -> GatherTokens -> x' -> ... -> ScatterTokens -> z        from x' on the tokens of one SelectTokens
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.facts import Fact, FactCache
from adapass.ops import GATHER_TOKENS, MERGE_TOKENS, SCATTER_TOKENS, SELECT_TOKENS, is_token_operator

_KEPT_INPUT = {GATHER_TOKENS: 1, MERGE_TOKENS: 3}


@dataclass(frozen=True, slots=True)
class KeptTokens(Fact):
    """By the names of values that hold some of the tokens."""

    masks: Mapping[str, str | None] = field(repr=False)
    """Name of a bool value ``[B, K]`` that tells the real ones; ``None`` where all of them are."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow, shapes = facts.get(Dataflow), facts.get(Shapes)
        chosen: dict[ir.Value, ir.Node | None] = {}
        found: dict[str, str | None] = {}
        for node in flow.nodes:
            source = _source(node, chosen)
            for value in node.outputs:
                chosen[value] = source
                if source is not None:
                    found[name_of(value)] = _mask(source, shapes)
        return cls(MappingProxyType(found))


def _source(node: ir.Node, chosen: Mapping[ir.Value, ir.Node | None]) -> ir.Node | None:
    """The ``SelectTokens`` whose tokens a node works on."""
    if is_token_operator(node):
        if node.op_type in (SELECT_TOKENS, SCATTER_TOKENS):
            first = node.inputs[0]
            return None if first is None or node.op_type == SELECT_TOKENS else chosen.get(first)
        kept = node.inputs[_KEPT_INPUT[node.op_type]]
        return None if kept is None else kept.producer()
    sources = [source for value in node.inputs if value is not None and (source := chosen.get(value))]
    return sources[0] if sources else None


def _mask(select: ir.Node, shapes: Shapes) -> str | None:
    name = name_of(select.outputs[1])
    dims = shapes.of(name)
    # A count that is that of all samples makes one row of truths.
    is_one_row = dims is not None and not dims[0].is_batch and shapes.dynamic_batch
    return None if is_one_row else name
