"""Expected latency of a model with exits: what each stage costs, weighed by how many samples reach it.

A stage is the part of the network between two exits together with the head at its end. Samples that
took an exit leave the batch, so a later stage runs on fewer samples, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from adapass.cost.curves import Curve
from adapass.cost.model import FREE, Cost

__all__ = [
    "Curve",
    "binomial",
    "expected_batch_cost",
    "expected_cost",
    "expected_depth",
    "expected_left",
    "masked_cost",
    "reach_error",
    "reach_of",
    "rows_reaching",
    "stage_runs",
]

NEGLIGIBLE: Final = 1e-6
"""Probability below which a number of samples is left out."""
NORMAL_90: Final = 1.645


def reach_of(exits: npt.NDArray[np.int64], stages: int) -> tuple[float, ...]:
    """The share of samples that reach each stage, from the exit index each sample took (0 = the first exit).

    The first stage is reached by all. ``stages`` is the number of exits plus one for the rest of the model.
    """
    if exits.size == 0 or exits.min() < 0 or exits.max() >= stages:
        raise ValueError(f"exit indices must lie in 0..{stages - 1}, for at least one sample")
    taken = np.bincount(exits, minlength=stages)
    left = exits.size - np.concatenate(([0], np.cumsum(taken)[:-1]))
    return tuple(float(count) / exits.size for count in left)


def expected_cost(stages: Sequence[Cost], reach: Sequence[float]) -> Cost:
    """Expected cost of one sample at batch 1; each stage's cost includes the head at its end."""
    _check_reach(stages, reach)
    return sum((cost * share for cost, share in zip(stages, reach, strict=True)), start=FREE)


def masked_cost(stages: Sequence[Cost]) -> Cost:
    """Cost where nothing is skipped, as on a target without control flow."""
    return sum(stages, start=FREE)


def expected_batch_cost(stages: Sequence[Curve], reach: Sequence[float], batch: int) -> Cost:
    """Expected cost of one batch of ``batch`` independent samples when finished samples leave it.

    The number of samples at a stage is binomial; the stage is skipped when none is left.
    """
    _check_reach(stages, reach)
    total = FREE
    for curve, share in zip(stages, reach, strict=True):
        for samples, probability in enumerate(binomial(batch, share)):
            if probability > 0:
                total += curve.at(samples) * probability
    return total


def expected_left(reach: Sequence[float], batch: int) -> tuple[float, ...]:
    """The expected number of samples of a batch that are left at each stage."""
    return tuple(batch * share for share in reach)


def stage_runs(reach: Sequence[float], batch: int) -> tuple[float, ...]:
    """The probability that a stage runs at all, because at least one sample of the batch is left."""
    return tuple(1 - (1 - share) ** batch for share in reach)


def expected_depth(reach: Sequence[float], layers: Sequence[float]) -> float:
    """The mean number of layers a sample passes, ``layers`` being those of each stage."""
    _check_reach(layers, reach)
    return sum(share * count for share, count in zip(reach, layers, strict=True))


def binomial(trials: int, probability: float) -> tuple[float, ...]:
    """The probabilities of 0, 1, ..., ``trials`` successes, through logarithms: nothing overflows."""
    if probability in {0.0, 1.0}:
        certain = trials if probability else 0
        return tuple(float(count == certain) for count in range(trials + 1))
    log_yes, log_no = math.log(probability), math.log1p(-probability)
    choose = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(trials + 1)
    ]
    return tuple(math.exp(choose[k] + k * log_yes + (trials - k) * log_no) for k in range(trials + 1))


def rows_reaching(batch: int, share: float) -> Mapping[int, float]:
    """How probable each number of samples of a batch is, when each goes on with probability ``share``."""
    counts = enumerate(binomial(batch, share))
    return {count: probability for count, probability in counts if probability > NEGLIGIBLE}


def reach_error(share: float, samples: int) -> float:
    """Half-width (90 %) of the relative error of a share that was counted on so many samples."""
    return NORMAL_90 * math.sqrt((1 - share) / (share * samples)) if 0 < share < 1 else 0.0


def _check_reach(stages: Sequence[object], reach: Sequence[float]) -> None:
    if len(stages) != len(reach):
        raise ValueError(f"{len(stages)} stages but {len(reach)} reach probabilities")
    grows = any(later > earlier for earlier, later in pairwise(reach))
    if grows or any(not 0 <= share <= 1 for share in reach):
        raise ValueError(f"reach probabilities must lie in 0..1 and never grow: {tuple(reach)}")
