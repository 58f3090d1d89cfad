"""TokenMask: the graph input that says which tokens are real.

Recognised by what becomes of it. A mask of shape [B, T] reaches the result only by being added to
attention scores, by selecting (``Where``), by weighing (``Mul``) or by being counted; it never indexes
a table of weights, as ids and segments do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.attention import AttentionCores
from adapass.analyses.axes import Axes
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.analyses.side_values import SideValues
from adapass.facts import Fact, FactCache

WEIGHING = frozenset({"Mul", "Where", "MatMul", "Div"})


@dataclass(frozen=True, slots=True)
class TokenMask(Fact):
    """The mask of the tokens, when the model has one."""

    input: str | None
    batch_axis: int = 0
    token_axis: int = 1

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow = facts.get(Dataflow)
        look = _Look(flow, facts.get(SideValues).main, facts.get(Shapes))
        cores = facts.get(AttentionCores).cores
        attended = frozenset(node for core in cores for node in core.nodes)
        axes = facts.get(Axes)
        for value in flow.inputs:
            name = name_of(value)
            if value.is_initializer() or not look.may_be_mask(value, axes):
                continue
            ends = look.ends(value)
            if ends is None:
                continue
            weighing = all(look.weighs(end) for end in ends) and any(look.weighs_tokens(end) for end in ends)
            if ends & attended or (not attended and weighing):
                return cls(name, axes.batch_axis(name) or 0, axes.token_axis(name) or 1)
        return cls(None)


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    main: frozenset[int]
    shapes: Shapes

    def may_be_mask(self, value: ir.Value, axes: Axes) -> bool:
        """Rank 2, one entry per sample and token; a fixed length is taken for the tokens."""
        dims = self.shapes.of(name_of(value))
        if dims is None or len(dims) != 2 or axes.batch_axis(name_of(value)) != 0:
            return False
        return axes.token_axis(name_of(value)) == 1 or not self.shapes.dynamic_tokens

    def ends(self, value: ir.Value) -> frozenset[int] | None:
        """The main nodes into which ``value`` runs; ``None`` when it indexes a table itself."""
        ends: set[int] = set()
        seen: set[int] = set()
        queue = deque(self.flow.readers.get(value, ()))
        while queue:
            index = queue.popleft()
            if index in seen:
                continue
            seen.add(index)
            node = self.flow.nodes[index]
            if node.op_type in ("Shape", "Size"):
                continue
            if self._looks_up(index, value):
                return None
            if index in self.main:
                ends.add(index)
                continue
            queue.extend(self.flow.graph.successors(index))
        return frozenset(ends)

    def _looks_up(self, index: int, value: ir.Value) -> bool:
        """Whether a node reads rows of a stored table at the very entries of ``value``."""
        node = self.flow.nodes[index]
        if node.op_type != "Gather" or node.inputs[0] not in self.flow.constants[index]:
            return False
        source = node.inputs[1]
        while source is not None and source is not value:
            maker = self.flow.producer.get(source)
            if maker is None or self.flow.nodes[maker].op_type not in ("Cast", "Identity", "Reshape"):
                return False
            source = self.flow.nodes[maker].inputs[0]
        return source is value

    def weighs(self, index: int) -> bool:
        """Whether a main node multiplies or selects, or divides by a count."""
        return self.flow.nodes[index].op_type in WEIGHING and len(self.flow.reads[index]) > 1

    def weighs_tokens(self, index: int) -> bool:
        """Whether what is weighed has an axis for the tokens beside those for samples and channels."""
        ranks = [len(self.shapes.of(name_of(value)) or ()) for value in self.flow.nodes[index].inputs]
        return self.weighs(index) and max(ranks) >= 3
