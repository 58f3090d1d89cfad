"""Who goes through a branch: a score for each token, compared with a threshold.

    learned       score = x . w        fitted to how far the branch moves the model's result at that token
    saturation    score = 1 - cos(x, x at the branch before): what still changes is not done yet

Both are known before the branch runs, from the token alone: a decision does not depend on the batch.
Saturation as a sign is from Jaiswal et al. 2024 (arXiv:2404.03865).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.graph.edit import fresh_name, new_initializer
from adapass.passes.gates.row_branches import RowBranch

TINY = 1e-12


class Decider(StrEnum):
    """Where the score comes from."""

    LEARNED = "learned"
    SATURATION = "saturation"


class Scope(StrEnum):
    """What is decided about at once."""

    TOKEN = "token"
    SAMPLE = "sample"


@dataclass(slots=True)
class Draft:
    """Nodes to insert, each with a name that tells the site it belongs to."""

    graph: ir.Graph
    prefix: str
    nodes: list[ir.Node] = field(default_factory=list[ir.Node])
    _names: set[str] = field(default_factory=set[str])

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        word: str,
        *,
        dtype: ir.DataType,
        domain: str = "",
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {}, domain=domain)
        node.name = ""
        name = fresh_name(self.graph, f"{self.prefix}_{word}")
        while name in self._names:
            name += "_"
        self._names.add(name)
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, word: str, array: Array) -> ir.Value:
        return new_initializer(self.graph, f"{self.prefix}_{word}", array)

    def axes(self, *numbers: int) -> ir.Value:
        return self.constant("axes", np.array(numbers, np.int64))


@dataclass(frozen=True, slots=True)
class Decision:
    """The nodes that decide, by the names of what is fitted."""

    live: ir.Value
    """bool [B, T]."""
    score: str
    """[B, T], or [B, 1] where whole samples are decided about."""
    weight: str | None
    """[C, 1], of a learned score."""
    threshold: str
    """[1]; minus infinity until it is fitted: everybody is live."""
    over: str
    """The result of comparing the two."""


def decide(draft: Draft, row: RowBranch, decider: Decider, scope: Scope) -> Decision:
    """Add what says which tokens of ``row`` are live."""
    dtype = row.branch.dtype
    weight: ir.Value | None = None
    if decider is Decider.LEARNED:
        weight = draft.constant("score_weight", np.zeros((row.branch.channels, 1), dtype.numpy()))
        column = draft.add("MatMul", [row.stream, weight], "score_column", dtype=dtype)
        score = draft.add("Squeeze", [column, draft.axes(2)], "score", dtype=dtype)
    else:
        score = _unsettled(draft, row)
    real = _real(draft, row)
    if scope is Scope.SAMPLE:
        score = _mean(draft, score, real, dtype)
    threshold = draft.constant("threshold", np.array([-np.inf], dtype.numpy()))
    over = live = draft.add("Greater", [score, threshold], "over", dtype=ir.DataType.BOOL)
    if scope is Scope.SAMPLE:
        live = _spread(draft, live, real, row)
    elif row.first_is_read:
        live = draft.add("Or", [live, _first(draft, row, score)], "wanted", dtype=ir.DataType.BOOL)
    if real is not None:
        live = draft.add("And", [live, real], "live", dtype=ir.DataType.BOOL)
    return Decision(
        live,
        score.name or "",
        weight.name if weight is not None else None,
        threshold.name or "",
        over.name or "",
    )


def _unsettled(draft: Draft, row: RowBranch) -> ir.Value:
    """1 - cosine of the stream here and at the branch before, [B, T]."""
    before = row.before
    assert before is not None  # propose refuses the first branch
    dtype = row.branch.dtype

    def dot(a: ir.Value, b: ir.Value, word: str) -> ir.Value:
        product = draft.add("Mul", [a, b], f"{word}_products", dtype=dtype)
        axes = draft.axes(2)
        return draft.add("ReduceSum", [product, axes], word, dtype=dtype, attributes={"keepdims": 0})

    both = dot(row.stream, before, "dot")
    squares = [dot(row.stream, row.stream, "square"), dot(before, before, "square_before")]
    product = draft.add("Mul", squares, "squares", dtype=dtype)
    some = draft.add(
        "Add", [product, draft.constant("tiny", np.array(TINY, dtype.numpy()))], "some", dtype=dtype
    )
    length = draft.add("Sqrt", [some], "length", dtype=dtype)
    cosine = draft.add("Div", [both, length], "cosine", dtype=dtype)
    return draft.add("Sub", [draft.constant("one", np.array(1, dtype.numpy())), cosine], "score", dtype=dtype)


def _real(draft: Draft, row: RowBranch) -> ir.Value | None:
    if row.mask is None or row.mask.dtype is ir.DataType.BOOL:
        return row.mask
    to = {"to": int(ir.DataType.BOOL)}
    return draft.add("Cast", [row.mask], "real", dtype=ir.DataType.BOOL, attributes=to)


def _mean(draft: Draft, score: ir.Value, real: ir.Value | None, dtype: ir.DataType) -> ir.Value:
    """Over the real tokens, [B, 1]."""
    axes = draft.axes(1)
    if real is None:
        total = draft.add("ReduceSum", [score, axes], "total", dtype=dtype)
        dims = draft.add("Shape", [score], "score_dims", dtype=ir.DataType.INT64)
        length = draft.add("Slice", [dims, axes, draft.axes(2)], "length_of_all", dtype=ir.DataType.INT64)
        count = draft.add("Cast", [length], "count", dtype=dtype, attributes={"to": int(dtype)})
    else:
        ones = draft.add("Cast", [real], "counted", dtype=dtype, attributes={"to": int(dtype)})
        kept = draft.add("Mul", [score, ones], "score_of_real", dtype=dtype)
        total = draft.add("ReduceSum", [kept, axes], "total", dtype=dtype)
        count = draft.add("ReduceSum", [ones, axes], "count", dtype=dtype)
    return draft.add("Div", [total, count], "sample_score", dtype=dtype)


def _spread(draft: Draft, live: ir.Value, real: ir.Value | None, row: RowBranch) -> ir.Value:
    """[B, 1] to [B, T]; where there is a mask, combining the two does that."""
    if real is not None:
        return live
    grid = draft.add("Shape", [row.stream], "dims", dtype=ir.DataType.INT64)
    start, end = draft.axes(0), draft.axes(2)
    sizes = draft.add("Slice", [grid, start, end], "grid", dtype=ir.DataType.INT64)
    return draft.add("Expand", [live, sizes], "everywhere", dtype=ir.DataType.BOOL)


def _first(draft: Draft, row: RowBranch, score: ir.Value) -> ir.Value:
    """[T] or [1, T]: true at the first token."""
    if row.tokens is not None:
        return draft.constant("first", np.arange(row.tokens)[None, :] == 0)
    dims = draft.add("Shape", [score], "dims", dtype=ir.DataType.INT64)
    axis = draft.constant("token_axis", np.array(1, np.int64))
    length = draft.add("Gather", [dims, axis], "tokens", dtype=ir.DataType.INT64, attributes={"axis": 0})
    zero = draft.constant("zero", np.array(0, np.int64))
    one = draft.constant("one", np.array(1, np.int64))
    place = draft.add("Range", [zero, length, one], "place", dtype=ir.DataType.INT64)
    return draft.add("Equal", [place, zero], "is_first", dtype=ir.DataType.BOOL)
