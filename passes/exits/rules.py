"""Rules that decide when a sample leaves: a confidence float32 ``[B]`` per exit, larger is more certain.

    rule              one class is right                    labels are independent
    max-probability   largest probability                   least certain label: min of max(p, 1 - p)
    margin            largest minus second largest          least certain label: min of |2p - 1|
    entropy           1 - entropy / log C                   1 - mean entropy / log 2
    patience          number of exits in a row, up to here, that agree with this one (all labels)
    quantile          nines of the cumulative exit probability F: -log10(1 - F)

The first three look at one exit alone (BranchyNet, Teerapittayanon et al. 2016, and DeeBERT, Xin et al.
2020, use the entropy); patience is PABEE (Zhou et al. 2020) and counts agreements, so its threshold
is a whole number and its counter is carried from exit to exit.

quantile is the Q-exit of PALBERT (Balagansky and Gavrilov 2022) over the halting distribution of PonderNet
(Banino et al. 2021). Exit k halts with probability p_k a sample that no exit before it halted, so

    1 - F_k = (1 - p_0) (1 - p_1) ... (1 - p_k)

and a sample leaves at the first exit where F_k reaches the quantile. p_k is fitted: the probability that
the answer of this head is the original's, given how far its first class is ahead of its second (with labels:
how far the least certain one is from undecided). Nines are carried instead of F, because F comes so close
to 1 that float32 cannot tell its values apart: a threshold of 2 is the quantile 0.99, and infinity is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import Task

TINY = np.float32(1e-12)


class Rule(StrEnum):
    """How confidence is read off a head."""

    MAX_PROBABILITY = "max-probability"
    MARGIN = "margin"
    ENTROPY = "entropy"
    PATIENCE = "patience"
    QUANTILE = "quantile"

    @property
    def is_carried(self) -> bool:
        """Whether an exit adds to what those before it said, so that it needs their heads."""
        return self in (Rule.PATIENCE, Rule.QUANTILE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What patience carries from one exit to the next."""

    decision: ir.Value
    """The predicted class, int64 ``[B]``, or the predicted labels, bool ``[B, C]``."""
    count: ir.Value
    """float32 ``[B]``"""


def confidence(build: Builder, rule: Rule, task: Task, logits: ir.Value, classes: int) -> ir.Value:
    """Confidence of one exit from its logits ``[B, C]``, for the rules that look at one exit alone."""
    if task is Task.MULTI_LABEL:
        return _LABELWISE[rule](build, build.op("Sigmoid", logits), classes)
    return _EXCLUSIVE[rule](build, build.op("Softmax", logits, axis=1), classes)


def patience(build: Builder, task: Task, logits: ir.Value, before: Verdict | None) -> Verdict:
    """The verdict of one exit, given that of the exit before it."""
    single = task is Task.CLASSIFICATION
    decision = (
        build.op("ArgMax", logits, axis=1, keepdims=0)
        if single
        else build.op("Greater", logits, build.constant(np.float32(0.0)))
    )
    if before is None:
        score = build.reduce("ReduceMax", logits, (1,))
        return Verdict(decision, build.op("Cast", build.op("Less", score, score), to=int(ir.DataType.FLOAT)))
    same = build.op("Cast", build.op("Equal", decision, before.decision), to=int(ir.DataType.FLOAT))
    if not single:
        same = build.reduce("ReduceMin", same, (1,))
    longer = build.op("Add", before.count, build.constant(np.float32(1.0)))
    return Verdict(decision, build.op("Mul", longer, same))


def cumulated(
    build: Builder, task: Task, logits: ir.Value, readiness: ir.Value, before: ir.Value | None
) -> ir.Value:
    """Nines of the cumulative exit probability, given those of the exit before it; float32 ``[B]``.

    ``readiness`` is float32 ``[2]``: the exit probability is the sigmoid of its first entry times the lead,
    plus its second.
    """
    slope, offset = (build.op("Gather", readiness, build.constant(np.int64(place))) for place in (0, 1))
    odds = build.op("Add", build.op("Mul", _lead(build, task, logits), slope), offset)
    # -log(1 - sigmoid(z)) = softplus(z), which neither overflows nor runs into 1 - 1.
    nines = build.op("Mul", build.op("Softplus", odds), build.constant(np.float32(1.0 / np.log(10.0))))
    return nines if before is None else build.op("Add", before, nines)


def _lead(build: Builder, task: Task, logits: ir.Value) -> ir.Value:
    if task is Task.CLASSIFICATION:
        return _margin(build, logits, 0)
    return build.reduce("ReduceMin", build.op("Abs", logits), (1,))


def _largest(build: Builder, probabilities: ir.Value, classes: int) -> ir.Value:
    del classes
    return build.reduce("ReduceMax", probabilities, (1,))


def _margin(build: Builder, scores: ir.Value, classes: int) -> ir.Value:
    del classes
    two = build.largest(scores, 2)
    first, second = (build.op("Gather", two, build.constant(np.int64(rank)), axis=1) for rank in (0, 1))
    return build.op("Sub", first, second)


def _entropy(build: Builder, probabilities: ir.Value, classes: int) -> ir.Value:
    weighted = build.op("Mul", probabilities, _log(build, probabilities))
    total = build.reduce("ReduceSum", weighted, (1,))
    return _one_plus(build, total, 1.0 / np.log(classes))


def _label_certainty(build: Builder, probabilities: ir.Value) -> ir.Value:
    return build.op("Max", probabilities, _complement(build, probabilities))


def _least_certain(build: Builder, probabilities: ir.Value, classes: int) -> ir.Value:
    del classes
    return build.reduce("ReduceMin", _label_certainty(build, probabilities), (1,))


def _least_margin(build: Builder, probabilities: ir.Value, classes: int) -> ir.Value:
    least = _least_certain(build, probabilities, classes)
    return build.op("Sub", build.op("Add", least, least), build.constant(np.float32(1.0)))


def _label_entropy(build: Builder, probabilities: ir.Value, classes: int) -> ir.Value:
    del classes
    other = _complement(build, probabilities)
    yes = build.op("Mul", probabilities, _log(build, probabilities))
    no = build.op("Mul", other, _log(build, other))
    return _one_plus(build, build.reduce("ReduceMean", build.op("Add", yes, no), (1,)), 1.0 / np.log(2.0))


def _complement(build: Builder, probabilities: ir.Value) -> ir.Value:
    return build.op("Sub", build.constant(np.float32(1.0)), probabilities)


def _log(build: Builder, probabilities: ir.Value) -> ir.Value:
    return build.op("Log", build.op("Max", probabilities, build.constant(TINY)))


def _one_plus(build: Builder, value: ir.Value, factor: float) -> ir.Value:
    scaled = build.op("Mul", value, build.constant(np.float32(factor)))
    return build.op("Add", scaled, build.constant(np.float32(1.0)))


_EXCLUSIVE: Mapping[Rule, Callable[[Builder, ir.Value, int], ir.Value]] = MappingProxyType(
    {Rule.MAX_PROBABILITY: _largest, Rule.MARGIN: _margin, Rule.ENTROPY: _entropy}
)
_LABELWISE: Mapping[Rule, Callable[[Builder, ir.Value, int], ir.Value]] = MappingProxyType(
    {Rule.MAX_PROBABILITY: _least_certain, Rule.MARGIN: _least_margin, Rule.ENTROPY: _label_entropy}
)
