"""One mechanism on given data: what it could save at best, what it saves as it is, and at what damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import Array, Damage
from adapass.certify.choose import choose_metric, decision_threshold
from adapass.data import Dataset
from adapass.errors import DataError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.progress import Progress
from adapass.search.damage import damage_of
from adapass.search.judge import Judge, spread_indices, stack_outputs

Doubles = npt.NDArray[np.float64]

WORTH = 0.1
"""Share of the work from which a saving is worth trying for."""
LEAST_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Place:
    """One row: a site, or all of them together, at one setting."""

    site: str
    setting: str
    oracle: float | None
    """Saving, as a share of the model's work, if every sample got the strongest setting it stands."""
    achievable: float | None
    """The same for all samples alike, within the tolerance."""
    lost: float | None
    """Mean paired loss at what is achievable: 0.01 is a point."""
    divergence: float | None = None
    """Of the class probabilities from the original's, in nats, at what is achievable."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one mechanism promises."""

    mechanism: str
    how: str
    """What ``achievable`` is found by."""
    oracle: float | None = None
    achievable: float | None = None
    lost: float | None = None
    divergence: float | None = None
    places: tuple[Place, ...] = ()
    recipe: str = ""
    """Text of the pass to try."""
    unavailable: str = ""
    """Why the mechanism does not exist for this model; empty where it does."""

    @property
    def verdict(self) -> str:
        """What to do, in words."""
        if self.unavailable:
            return f"not here: {self.unavailable}"
        if (self.achievable or 0.0) >= WORTH:
            return "worth trying"
        if (self.oracle or 0.0) >= WORTH:
            return "only if something learns to choose: the saving is there, this way does not find it"
        return "not worth it: even the best choice saves little"


@dataclass(frozen=True)
class Material:
    """What every mechanism is looked at with: a clean model and two disjoint sets of samples."""

    model: ir.Model
    fit: Dataset
    check: Dataset
    tolerance: float
    """Mean paired loss at which savings are told."""
    progress: Progress

    @classmethod
    def of(
        cls,
        model: ir.Model,
        data: Dataset,
        *,
        fit_samples: int,
        check_samples: int,
        tolerance: float,
        progress: Progress,
    ) -> Material:
        """At most a third of the samples check; both parts are spread over the data.

        The tolerance is one sample that checks, where it is less.

        Raises:
            DataError: there are too few samples.

        """
        if len(data) < 2 * LEAST_SAMPLES:
            raise DataError(
                f"what is worth trying needs at least {2 * LEAST_SAMPLES} samples, found {len(data)}"
            )
        taken = spread_indices(len(data), fit_samples + check_samples)
        checking = set(spread_indices(len(taken), min(check_samples, len(taken) // 3)))
        check = data.subset([index for place, index in enumerate(taken) if place in checking])
        fit = data.subset([index for place, index in enumerate(taken) if place not in checking])
        return cls(model, fit, check, max(tolerance, 1.0 / len(check)), progress)

    @cached_property
    def facts(self) -> FactCache:
        return FactCache(self.model)

    @cached_property
    def judge(self) -> Judge:
        """Against the labels where they are known, else against the model's own answers."""
        original = self.outputs(self.model)
        threshold = decision_threshold(self.model)
        metric = choose_metric(original, self.check.labels, threshold=threshold)
        return Judge(self.check, original, metric, threshold)

    @cached_property
    def amounts(self) -> dict[str, float]:
        """Operations of each node at the mean length of the samples, by the name of its first result."""
        work = self.facts.get(Work)
        lengths = self.check.lengths
        tokens = None if lengths is None else max(round(float(lengths.mean())), 1)
        parts = work.typical if tokens is None else work.at(1, tokens)
        return {
            node.outputs[0].name or "": float(part.flops)
            for node, part in zip(work.flow.nodes, parts, strict=True)
        }

    def outputs(self, model: ir.Model) -> Array:
        """The first output on the check samples, one by one, [N, ...]."""
        name = self.model.graph.outputs[0].name or ""
        session = Session(model, outputs=[name], optimize=True)
        return stack_outputs(self.check, lambda index: session.run(self.check.feeds(index))[name])

    def damage(self, output: Array) -> Damage:
        return damage_of(self.judge.original, output)


def oracle_of(losses: Sequence[Doubles], works: Sequence[float]) -> float:
    """Saving if each sample got the plan of least work that does it no harm; ``losses`` [plan][sample].

    The plan that changes nothing must be among them.
    """
    harmless = np.stack(losses) <= 0.0
    left = np.where(harmless, np.asarray(works)[:, None], np.inf).min(axis=0)
    return float(1.0 - left.mean())
