"""How sparse a delta may be: density and scale chosen by the answers, on data.

From the sparsest on, each density is tried with several multiples of the least-squares scale (a fine-tune's
few largest changes stand for all the others, so more than their own size is often better); the first that
agrees with the fine-tune on enough of the samples is taken. What is reported is measured on other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from adapass.budgeted import Array
from adapass.certify.choose import choose_metric, decision_threshold
from adapass.certify.losses import losses
from adapass.data import Dataset
from adapass.deltas.pack import Packed, pack
from adapass.errors import DataError
from adapass.search.judge import predict, spread_indices

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4)
ALPHAS = (1.0, 1.5, 2.0, 3.0)
AGREEMENT = 0.99
MAX_SAMPLES = 512
"""To choose on, and as many again to report on."""
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """One density and scale on the samples that are chosen on."""

    density: float
    alpha: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choice, and how it does on samples it was not chosen on."""

    packed: Packed
    agreement: float
    base_agreement: float
    """That of the base itself: what a delta is worth is seen beside it."""
    samples: int
    tried: tuple[Tried, ...]
    reached: bool
    """Whether the asked agreement was reached where it was chosen."""


def tune(
    base: ir.Model,
    fine: ir.Model,
    samples: Dataset,
    *,
    densities: Sequence[float] = DENSITIES,
    alphas: Sequence[float] = ALPHAS,
    agreement: float = AGREEMENT,
    threads: int = 1,
    report: Report | None = None,
) -> Tuned:
    """The sparsest delta that gives the fine-tune's answers on a share ``agreement`` of the samples.

    Where none does, the one that agrees most. Outputs are compared as the certificate does it.

    Raises:
        DataError: fewer than two samples.
        UsageError: the models differ in more than stored tensors.

    """
    if len(samples) < 2:
        raise DataError(
            f"{len(samples)} samples were given; at least 2 expected: to choose on, and to report on"
        )
    judge = _Judge(fine, samples, threads)
    tried: list[Tried] = []
    kept: dict[tuple[float, float], Packed] = {}
    total = len(densities) * len(alphas)
    for density in sorted(densities):
        for alpha in alphas:
            packed = pack(base, fine, density=density, alpha=alpha)
            tried.append(Tried(density, alpha, judge.chosen_on(packed.model)))
            kept = {key: value for key, value in kept.items() if key == _best_key(tried)}
            kept[density, alpha] = packed
            if report is not None:
                report(len(tried), total, f"density {density:g}, scale {alpha:g}x")
        if max(t.agreement for t in tried) >= agreement:
            break
    key = _best_key(tried)
    packed = kept[key]
    return Tuned(
        packed=packed,
        agreement=judge.reported_on(packed.model),
        base_agreement=judge.reported_on(base) if _same_outputs(base, fine) else 0.0,
        samples=len(judge.report),
        tried=tuple(tried),
        reached=max(t.agreement for t in tried) >= agreement,
    )


def measured_agreement(fine: ir.Model, made: ir.Model, samples: Dataset, *, threads: int = 1) -> float:
    """Of one model's answers with another's, on every other sample: the ones that ``tune`` reports on."""
    return _Judge(fine, samples, threads).reported_on(made)


def _best_key(tried: Sequence[Tried]) -> tuple[float, float]:
    best = max(tried, key=lambda t: (t.agreement, -t.density))
    return best.density, best.alpha


def _same_outputs(base: ir.Model, fine: ir.Model) -> bool:
    return [v.shape for v in base.graph.outputs] == [v.shape for v in fine.graph.outputs]


class _Judge:
    """The fine-tune's answers on both halves of the samples."""

    def __init__(self, fine: ir.Model, samples: Dataset, threads: int) -> None:
        indices = list(spread_indices(len(samples), 2 * MAX_SAMPLES))
        self.choose, self.report = samples.subset(indices[0::2]), samples.subset(indices[1::2])
        self._threads = threads
        self._threshold = decision_threshold(fine)
        self._chosen, self._reported = (
            predict(fine, part, threads=threads) for part in (self.choose, self.report)
        )
        self._metric = choose_metric(self._chosen, None, threshold=self._threshold)

    def chosen_on(self, model: ir.Model) -> float:
        return self._agreement(model, self.choose, self._chosen)

    def reported_on(self, model: ir.Model) -> float:
        return self._agreement(model, self.report, self._reported)

    def _agreement(self, model: ir.Model, samples: Dataset, expected: Array) -> float:
        found = predict(model, samples, threads=self._threads)
        return 1.0 - losses(expected, found, None, self._metric, threshold=self._threshold).mean
