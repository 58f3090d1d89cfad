"""Residual branches that compute every token from that token alone, so that some tokens can go without.

    x [B, T, C]  ->  f(x)  ->  x + f(x)        f: products with weights, norms over channels, activations

A feed-forward part is one; attention, which looks at other tokens, is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.kept_tokens import KeptTokens
from adapass.analyses.shapes import Dim, Shapes
from adapass.analyses.token_mask import TokenMask
from adapass.budgeted import Refusal
from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.passes.prune.position_rules import ELEMENTWISE
from adapass.passes.prune.remove_blocks_branches import Branch, Part, find_branches
from adapass.rewrite import Reject

NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
LAST_AXIS = frozenset({"Softmax", "LogSoftmax", "Split"})
ROW_RANK = 3
"""Samples, tokens, channels."""


@dataclass(frozen=True, slots=True)
class RowBranch:
    """One branch that can run on some rows only."""

    branch: Branch
    entries: tuple[ir.Value, ...]
    """What it reads that has a row a token, the stream first (whether it is read or not)."""
    mask: ir.Value | None
    """[B, T]: which tokens are real (not 0); ``None`` where all are."""
    tokens: int | None
    """How many there are, where that is fixed."""
    before: ir.Value | None
    """The stream at the branch of this kind before, for the same tokens; ``None`` at the first."""
    first_is_read: bool
    """Whether the model's result is read at the first token."""

    @property
    def site(self) -> str:
        return self.branch.site

    @property
    def stream(self) -> ir.Value:
        return self.branch.stream

    @property
    def products(self) -> tuple[str, ...]:
        """Results of its products."""
        return tuple(name_of(node.outputs[0]) for node in self.branch.products)


def find_row_branches(model: ir.Model, facts: FactCache) -> tuple[tuple[RowBranch, ...], tuple[Refusal, ...]]:
    """All of them in execution order, and the branches that are none."""
    branches, refusals = find_branches(model, facts)
    look = _Look.of(facts)
    found: list[RowBranch] = []
    reasons = list(refusals)
    for branch in branches:
        try:
            found.append(look.row_branch(branch, found[-1] if found else None))
        except Reject as reason:
            reasons.append(Refusal(branch.site, str(reason)))
    return tuple(found), tuple(reasons)


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    shapes: Shapes
    axes: Axes
    mask: TokenMask
    kept: KeptTokens
    place: Mapping[ir.Node, int]

    @classmethod
    def of(cls, facts: FactCache) -> _Look:
        flow = facts.get(Dataflow)
        place = {node: index for index, node in enumerate(flow.nodes)}
        return cls(
            flow,
            facts.get(Shapes),
            facts.get(Axes),
            facts.get(TokenMask),
            facts.get(KeptTokens),
            place,
        )

    def row_branch(self, branch: Branch, last: RowBranch | None) -> RowBranch:
        dims = self._row_dims(branch.stream)
        if branch.part is Part.ATTENTION:
            raise Reject("attention looks at other tokens")
        if branch.rank != ROW_RANK or branch.axis != ROW_RANK - 1 or dims is None:
            raise Reject("the stream has no rows of samples and tokens")
        if dims[1] == Dim(dims[1].constant) and dims[1].constant == 1:
            raise Reject("one position is left of the tokens")
        if any(value.is_graph_output() for node in branch.nodes for value in node.outputs):
            raise Reject("a value inside is an output of the model")
        entries = tuple(dict.fromkeys((branch.stream, *self._entries(branch, dims))))
        self._check_order(branch, entries)
        before = last.stream if last is not None else None
        return RowBranch(
            branch,
            entries,
            self._mask_of(branch.stream, dims[1]),
            int(dims[1].constant) if dims[1] == Dim(dims[1].constant) else None,
            before if before is not None and self._row_dims(before) == dims else None,
            self._first_is_read(branch.sum),
        )

    def _row_dims(self, value: ir.Value) -> tuple[Dim, ...] | None:
        dims = self.shapes.of(name_of(value))
        is_rows = dims is not None and len(dims) == ROW_RANK and self.axes.batch_axis(name_of(value)) == 0
        return dims if is_rows else None

    def _entries(self, branch: Branch, dims: tuple[Dim, ...]) -> Iterator[ir.Value]:
        """Follow the rows through the branch; what comes from outside must be stored, or rows as well."""
        rows: set[ir.Value] = set()
        for node in branch.nodes:
            index = self.place[node]
            outside = [value for value in self.flow.reads[index] if value not in rows]
            for value in outside:
                found = self._row_dims(value)
                if found is None or found[:2] != dims[:2]:
                    raise Reject("something computed that is no row of a token goes into it")
                yield value
            check_by_row(node, frozenset((*rows, *outside)))
            rows.update(node.outputs)
            rows.update(outside)

    def _check_order(self, branch: Branch, entries: tuple[ir.Value, ...]) -> None:
        """All that is gathered must be there before the first node of the branch runs."""
        first = self.place[branch.nodes[0]]
        if any(self.flow.producer.get(value, -1) > first for value in entries):
            raise Reject("what goes into it is computed behind its beginning")

    def _mask_of(self, stream: ir.Value, tokens: Dim) -> ir.Value | None:
        """What tells the real ones of the tokens that were kept, else the model's mask."""
        if name_of(stream) in self.kept.masks:
            name = self.kept.masks[name_of(stream)]
            return next((value for value in self.flow.producer if value.name == name), None)
        if self.mask.input is None:
            return None
        dims = self.shapes.of(self.mask.input)
        if dims is None or len(dims) != 2 or dims[1] != tokens:
            return None
        return next(value for value in self.flow.inputs if value.name == self.mask.input)

    def _first_is_read(self, stream: ir.Value) -> bool:
        """Whether somebody behind takes the first of the tokens out."""
        return any(
            _takes_first(self.flow.nodes[index]) and self._is_rows(self.flow.nodes[index].inputs[0])
            for index in self.flow.descendants(stream)
        )

    def _is_rows(self, value: ir.Value | None) -> bool:
        return value is not None and self._row_dims(value) is not None


def end_of(branch: Branch) -> str:
    """What the layer of a branch ends with: its sum, normalised where the block is post-norm."""
    return name_of(branch.sum if branch.norm is None else branch.norm.outputs[0])


def _takes_first(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    index = constant_array(node.inputs[1])
    return index is not None and index.size == 1 and int(index.reshape(-1)[0]) == 0


def check_by_row(node: ir.Node, rows: frozenset[ir.Value]) -> None:
    """Raise ``Reject`` unless ``node`` computes each row of [B, T, C] from that row of ``rows`` alone."""
    places = [place for place, value in enumerate(node.inputs) if value is not None and value in rows]
    stored = [value for value in node.inputs if value is not None and value not in rows]
    by_row = False
    if node.domain == "" and node.op_type == "MatMul":
        by_row = places == [0] and all(_rank(value) == 2 for value in stored)
    elif node.domain == "" and node.op_type in ELEMENTWISE | {"PRelu", "Dropout", "Swish"}:
        by_row = all(_width_only(value) for value in stored)
    elif node.domain == "" and node.op_type in NORMS | LAST_AXIS:
        by_row = places == [0] and node.attributes.get_int("axis", _default_axis(node)) in (-1, ROW_RANK - 1)
    if not by_row:
        raise Reject("an operator inside does not work row by row")


def _default_axis(node: ir.Node) -> int:
    return 0 if node.op_type == "Split" else -1


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _width_only(value: ir.Value) -> bool:
    """Whether a stored value is the same for all rows."""
    if value.shape is None or not value.shape.is_static():
        return False
    sizes = [int(size) for size in value.shape.numpy()]
    return all(size == 1 for size in sizes[:-1]) and (len(sizes) <= 1 or constant_array(value) is not None)
