"""What makes two runs alike for the choice of a recipe, and how far apart two of them are.

Nothing here depends on the values of weights, on names, or on the opset; work is counted, not timed.

The distance is a sum of terms that other runs have no influence on. 1 means: no longer of one kind.

    operators       2      x  the share of the work (flops) that sits in other kinds of operators
    weights, flops  1/4    x  |log10 of the ratio|, each
    cut points      0.1    x  |log2 of the ratio|
    inputs          1/4    for each of token axis, image input, vector input that only one of them has
    threads, batch  0.15   x  |log2 of the ratio|, each
    budget          1/2    x  |log10 of the ratio|, budgets below 0.01 points counting as that
    metric          1/4    when it differs

So half of the work in other operators is too far, and so is a hundred times the budget; a model ten times as
large (weights and flops) of the same build lies at half the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log2, log10
from typing import Annotated, ClassVar

import onnx_ir as ir
from pydantic import ConfigDict, Field

from adapass.analyses.attention import AttentionCores
from adapass.analyses.axes import Axes
from adapass.analyses.cut_sites import CutSites
from adapass.analyses.dataflow import Dataflow, fixed_shape, name_of
from adapass.analyses.work import Work
from adapass.facts import FactCache
from adapass.graph.tensors import tensors_everywhere

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""Operator to the input that holds its weight, [M, C/group, kernel...]."""
PRODUCTS = frozenset({"MatMul", "MatMulInteger", "FusedMatMul", "QLinearMatMul", "Gemm", "Einsum"})
SMALLEST_BUDGET = 1e-4
LONGEST_WORD = 1_000

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Log = Annotated[float, Field(ge=0.0, le=30.0)]
Count = Annotated[int, Field(ge=1, le=1 << 30)]
Word = Annotated[str, Field(max_length=LONGEST_WORD)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkShares:
    """Shares of the flops by kind of operator; together 1."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    conv: Share = 0.0
    depthwise: Share = 0.0
    """Convolutions with one input channel a group."""
    matmul: Share = 0.0
    """Products outside of attention, with weights or not."""
    attention: Share = 0.0
    """From the product of queries and keys to that with the values; projections are products."""
    other: Share = 0.0

    def moved(self, to: WorkShares) -> float:
        """The share of the work that sits in other kinds of operators there."""
        pairs = (
            (self.conv, to.conv),
            (self.depthwise, to.depthwise),
            (self.matmul, to.matmul),
            (self.attention, to.attention),
            (self.other, to.other),
        )
        return sum(abs(mine - its) for mine, its in pairs) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFeatures:
    """A model and the circumstances of a run, as far as similar ones should get similar recipes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    work: WorkShares
    log_weights: Log
    """log10 of the number of stored elements, in whatever precision."""
    log_flops: Log
    """log10 of the operations for one sample of 64 tokens (where the length is not fixed)."""
    cut_points: Annotated[int, Field(ge=0, le=1 << 30)]
    """Places where an exit could sit."""
    has_token_axis: bool
    """Anywhere in the model."""
    has_image_input: bool
    has_vector_input: bool
    """A float input [B, C]."""
    target: Word
    generator: Word
    threads: Count
    batch: Count
    max_drop: Annotated[float, Field(ge=0.0, lt=1.0)]
    """The budget as a share."""
    metric: Word

    @property
    def circumstances(self) -> tuple[str, str, int, int, float, str]:
        """Everything but the model."""
        return self.target, self.generator, self.threads, self.batch, self.max_drop, self.metric

    @property
    def marks(self) -> tuple[bool | str, ...]:
        """What is equal or not."""
        return self.has_token_axis, self.has_image_input, self.has_vector_input, self.metric


def features_of(
    model: ir.Model,
    *,
    target: str,
    generator: str,
    threads: int,
    batch: int,
    max_drop: float,
    metric: str,
    facts: FactCache | None = None,
) -> ModelFeatures:
    """Describe ``model`` (best the clean one) under these circumstances.

    Costs what the shapes of the model cost (a few runs on made-up feeds), unless ``facts`` knows them.
    """
    known = FactCache(model) if facts is None else facts
    inputs = [(value, known.get(Axes).token_axis(name_of(value))) for value in known.get(Dataflow).inputs]
    kinds = [_layout(value) for value, token_axis in inputs if token_axis is None]
    return ModelFeatures(
        work=_work_shares(known),
        log_weights=log10(max(1, sum(tensor.size for tensor in tensors_everywhere(model)))),
        log_flops=log10(max(1, sum(part.flops for part in known.get(Work).typical))),
        cut_points=len(known.get(CutSites).sites),
        has_token_axis=bool(known.get(Axes).tokens) or "ids" in kinds,
        has_image_input="image" in kinds,
        has_vector_input="vector" in kinds,
        target=target,
        generator=generator,
        threads=threads,
        batch=batch,
        max_drop=max_drop,
        metric=metric,
    )


def distance(one: ModelFeatures, other: ModelFeatures) -> float:
    """See the module docstring; symmetric, 0 for equal features. Target and generator do not count."""
    size = abs(one.log_weights - other.log_weights) + abs(one.log_flops - other.log_flops)
    differing = sum(mine != its for mine, its in zip(one.marks, other.marks, strict=True))
    budgets = [max(features.max_drop, SMALLEST_BUDGET) for features in (one, other)]
    return (
        2.0 * one.work.moved(other.work)
        + 0.25 * size
        + 0.1 * abs(log2((1 + one.cut_points) / (1 + other.cut_points)))
        + 0.25 * differing
        + 0.15 * abs(log2(one.threads / other.threads))
        + 0.15 * abs(log2(one.batch / other.batch))
        + 0.5 * abs(log10(budgets[0] / budgets[1]))
    )


def _work_shares(facts: FactCache) -> WorkShares:
    flow, work = facts.get(Dataflow), facts.get(Work).typical
    attention = frozenset(node for core in facts.get(AttentionCores).cores for node in core.nodes)
    sums = dict.fromkeys((f.name for f in fields(WorkShares)), 0)
    for index, node in enumerate(flow.nodes):
        sums["attention" if index in attention else _kind(node)] += work[index].flops
    whole = sum(sums.values())
    if whole == 0:
        return WorkShares(other=1.0)
    return WorkShares(**{kind: flops / whole for kind, flops in sums.items()})


def _kind(node: ir.Node) -> str:
    if node.op_type in PRODUCTS:
        return "matmul"
    if node.op_type not in CONVOLUTIONS:
        return "other"
    place = CONVOLUTIONS[node.op_type]
    weight = node.inputs[place] if place < len(node.inputs) else None
    shape = None if weight is None else fixed_shape(weight)
    one_channel = shape is not None and len(shape) > 1 and shape[1] == 1
    return "depthwise" if one_channel and node.attributes.get_int("group", 1) > 1 else "conv"


def _layout(value: ir.Value) -> str | None:
    """What an input without a known token axis looks like."""
    rank = None if value.shape is None else len(value.shape)
    if rank is None or value.dtype is None:
        return None
    if value.dtype.is_floating_point():
        return {2: "vector", 4: "image"}.get(rank)
    return "ids" if rank == 2 else None  # of fixed length: nothing but their rank tells
