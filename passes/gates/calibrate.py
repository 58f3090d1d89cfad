"""Set the thresholds of gates, and what those who do not pass get instead, on a gated model.

In execution order, each gate seeing what the gates before it have left: scores of the real tokens are
collected while everybody is live, the threshold is the score that leaves the wanted share out, and the
bias is the mean of what the branch would have added there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.executor.threads import one_thread
from adapass.moments.batches import Batches
from adapass.moments.sources import Selection
from adapass.moments.walk import Values, Walk
from adapass.passes.gates.install import Gate
from adapass.passes.prune.linear_ops import store, stored

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a gate is to do."""

    gate: Gate
    skipped: float
    """Share of the real tokens (of the samples, where those are decided about) that go without."""
    always: bool
    """Whether the first token always passes."""


def calibrate(model: ir.Model, aims: Sequence[Aim], batches: Batches) -> None:
    """Fit thresholds and biases of ``model`` in place; ``aims`` in execution order."""
    makers = {value.name or "": node for node in model.graph for value in node.outputs}
    with one_thread(), Walk(model, batches) as walk:
        for aim in aims:
            gate = aim.gate
            for _ in walk.advance(makers[gate.decision.over]):
                pass  # up to the comparison, which the threshold will change
            names = [gate.decision.score, gate.decision.live.name or ""]
            seen = [_Seen.of(aim, selection, values) for selection, values in walk.look(names)]
            open_scores = np.concatenate([each.scores[each.may_go] for each in seen])
            passing = sum(int((each.real & ~each.may_go).sum()) for each in seen)
            threshold = cut(open_scores, aim.skipped, passing)
            if gate.bias is not None:
                added = (values[gate.result] for _, values in walk.look([gate.result]))
                _store(model, gate.bias, _left_out(seen, added, threshold))
            _store(model, gate.decision.threshold, np.asarray(threshold))


def cut(scores: Doubles, skipped: float, passing: int) -> float:
    """The threshold that ``skipped`` of all rows do not exceed, ``passing`` of which always go through."""
    out = min(round(skipped * (len(scores) + passing)), len(scores))
    if out == 0:
        return -np.inf
    ordered = np.sort(scores)
    if out == len(scores):
        return np.inf
    return float((ordered[out - 1] + ordered[out]) / 2)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Scores of one batch, everybody live."""

    scores: Doubles
    """[B, T], or [B, 1]."""
    real: Flags
    """[B, T] or [B, 1]."""
    may_go: Flags
    """Those of them that the threshold decides about."""
    live: Flags
    """[B, T]: who was live."""

    @classmethod
    def of(cls, aim: Aim, selection: Selection, values: Values) -> _Seen:
        scores = values[aim.gate.decision.score].astype(np.float64)
        live = values[aim.gate.decision.live.name or ""].astype(np.bool_)
        whole = np.zeros(live.shape[:1], np.bool_)
        whole[: len(selection.indices)] = True  # a model with a fixed batch may see filling
        real = (live.any(axis=1, keepdims=True) if scores.shape[1] != live.shape[1] else live) & whole[
            :, None
        ]
        may_go = real.copy()
        if aim.always:
            may_go[:, 0] = False
        return cls(scores, real, may_go, live)

    def left_out(self, threshold: float) -> Flags:
        """[n]: which of the live rows do not pass."""
        out: Flags = np.broadcast_to(self.may_go & (self.scores <= threshold), self.live.shape)
        return out[self.live]


def _left_out(seen: Sequence[_Seen], added: Iterator[Array], threshold: float) -> Doubles:
    """Mean of what the branch adds where it is left out."""
    total: Doubles | None = None
    count = 0
    for each, rows in zip(seen, added, strict=True):
        out = each.left_out(threshold)
        part = rows[out].astype(np.float64).sum(axis=0)
        total = part if total is None else total + part
        count += int(out.sum())
    assert total is not None  # there are samples
    return total / max(count, 1)


def _store(model: ir.Model, name: str, numbers: Doubles) -> None:
    old = stored(model, name)
    store(model, name, numbers.reshape(old.shape).astype(old.dtype))
