"""An exact test for paired right/wrong comparisons: is the accuracy drop really below the budget?

Each sample scores +1 (the original is right, the candidate is wrong), -1 (the other way round) or 0.
``worse`` and ``better`` count the +1 and -1 among ``n`` independent samples; with probabilities
p and q they are trinomial, and the drop is p - q. Null hypothesis: p - q >= budget.

The conditional test on the discordant pairs (McNemar) has the null p = q and says nothing about a
budget. This is the unconditional one:

1. Outcomes are ordered by the likelihood ratio between the best fit and the best fit that has a drop
   of at least the budget. Raising ``worse`` always lowers it and raising ``better`` always raises it:
   the constrained fit has p^ / p* < (zeros)^ / (zeros)* < q^ / q* (Lagrange conditions of a
   constraint on the mean), and these ratios are the slopes. So every tail region is a staircase.
2. Because of the staircase, the tail probability falls in p and rises in q. The worst null on a piece
   q in [l, h] therefore has at most the tail probability of (p, q) = (budget + l, h): a bound for the
   whole piece, not for grid points only.
3. Pieces are halved until the bound is within one percent of a value that is attained (or of the level).
4. q is searched only within a confidence interval of error ``NUISANCE_SHARE`` x (1 - confidence),
   which is added to the result (Berger and Boos, JASA 1994). Without this a population with almost no
   discordance dictates the p-value of populations that have some.

Every step rounds up, so the p-value is valid at every n. Betting bounds need about 2.4 standard
errors between drop and budget at 95 %; this test needs about 1.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NUISANCE_SHARE = 0.01
TOLERANCE = 0.01
MAX_PIECES = 20_000
PROBES = 3
"""Pieces, the worst ones, at whose end the tail itself is computed."""
IGNORED_MASS = 1e-10
"""Outcomes of ``better`` beyond this tail are not summed; their mass is added to the result."""


@dataclass(frozen=True, slots=True)
class _Stairs:
    """A tail region: up to ``worse`` losses for each count in ``better`` (consecutive)."""

    samples: int
    better: Integers
    worse: Integers


@lru_cache(maxsize=65536)
def paired_p_value(worse: int, better: int, n: int, budget: float, error: float = 0.05) -> float:
    """P-value of "the drop is at least ``budget``", to be held against the level ``error``.

    Valid for every ``error`` fixed beforehand; the power is best at the stated one.
    """
    if worse - better >= n * budget:
        return 1.0
    spent = NUISANCE_SHARE * error
    low, high = _interval(better, n, spent)
    high = min(high, (1.0 - budget) / 2)
    low = min(low, high)
    counts = _reachable(n, low, high)
    stairs = _Stairs(n, counts, _staircase(worse, better, n, budget, counts))
    return min(1.0, _largest_tail(stairs, budget, (low, high), error) + spent)


def log_ratio(worse: Floats, better: Floats, n: int, budget: float) -> Floats:
    """Log likelihood ratio of the free fit over the best fit with drop >= ``budget``; 0 if the same."""
    linear = worse * (1 + budget) + better * (1 - budget) - 2 * n * budget
    q = (linear + np.sqrt(linear**2 + 8 * n * better * budget * (1 - budget))) / (4 * n)
    zeros = n - worse - better
    ratio = (
        _surprise(worse, n * (q + budget))
        + _surprise(better, n * q)
        + _surprise(zeros, n * (1 - budget - 2 * q))
    )
    return np.where(worse - better >= n * budget, 0.0, np.maximum(ratio, 0.0))


def _surprise(count: Floats, expected: Floats) -> Floats:
    return special.rel_entr(count, np.maximum(expected, 0.0)) - count + expected


def _staircase(worse: int, better: int, n: int, budget: float, counts: Integers) -> Integers:
    """For each count of ``better`` the largest ``worse`` at least as surprising as the data; -1 if none.

    Found by bisection: along ``worse`` the ratio only falls. The slack keeps ties on the inside.
    """
    level = log_ratio(np.array(float(worse)), np.array(float(better)), n, budget) * (1 - 1e-12) - 1e-12
    inside = np.full(len(counts), -1, np.int64)
    outside = np.minimum(np.ceil(counts + n * budget).astype(np.int64), n - counts + 1)
    while np.any(outside - inside > 1):
        middle = (inside + outside) // 2
        wide = outside - inside > 1
        extreme = log_ratio(np.maximum(middle, 0).astype(float), counts.astype(float), n, budget) >= level
        inside = np.where(wide & extreme, middle, inside)
        outside = np.where(wide & ~extreme, middle, outside)
    return np.maximum.accumulate(inside)


def _interval(count: int, n: int, error: float) -> tuple[float, float]:
    """Clopper-Pearson interval of a binomial probability, ``error`` split evenly."""
    low = 0.0 if count == 0 else float(special.betaincinv(count, n - count + 1, error / 2))
    high = 1.0 if count == n else float(special.betaincinv(count + 1, n - count, 1 - error / 2))
    return low, high


def _largest_tail(stairs: _Stairs, budget: float, interval: tuple[float, float], error: float) -> float:
    """Upper bound on the tail probability over q in ``interval``, p = q + budget; 1 if it does not settle.

    Tight where it is near ``error`` or below; coarse where an attained value is beyond it anyway.
    """
    roots: Floats = np.linspace(math.sqrt(interval[0]), math.sqrt(interval[1]), 17)
    left, right = roots[:-1] ** 2, roots[1:] ** 2
    left[0], right[-1] = interval
    attained = bound = 0.0
    while len(left) <= MAX_PIECES:
        bounds = _tail(stairs, left + budget, right)
        top = np.argsort(bounds)[-PROBES:]
        attained = max(attained, float(_tail(stairs, right[top] + budget, right[top]).max()))
        settled = bounds <= attained * (1 + TOLERANCE) + TOLERANCE * error
        bound = max(bound, attained, float(bounds[settled].max(initial=0.0)))
        if settled.all() or attained > 2 * error:
            return max(bound, float(bounds.max()))
        left, right = left[~settled], right[~settled]
        middle = (left + right) / 2
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return 1.0


def _reachable(n: int, low: float, high: float) -> Integers:
    """Counts that a binomial of probability in [low, high] stays in, but for ``IGNORED_MASS`` a side."""
    start = int(special.bdtrik(IGNORED_MASS, n, low)) if low > 0 else 0
    stop = min(n, math.ceil(special.bdtrik(1 - IGNORED_MASS, n, high)) + 1)
    return np.arange(start, stop + 1, dtype=np.int64)


def _tail(stairs: _Stairs, p: Floats, q: Floats) -> Floats:
    """Probability of the staircase at each (p, q), plus the mass that was not summed."""
    n = stairs.samples
    better = _reachable(n, float(q.min()), float(q.max()))
    share = np.minimum(p / np.maximum(1 - q, 1e-300), 1.0)[:, None]
    log_weights = (
        special.gammaln(n + 1)
        - special.gammaln(better + 1)
        - special.gammaln(n - better + 1)
        + special.xlogy(better, q[:, None])
        + special.xlog1py(n - better, -q[:, None])
    )
    # Beyond n - better bdtr answers NaN, not 1.
    reached = np.minimum(stairs.worse[better - stairs.better[0]], n - better)
    given = np.where(reached < 0, 0.0, special.bdtr(np.maximum(reached, 0), n - better, share))
    total: Floats = (np.exp(log_weights) * given).sum(axis=1) + 2 * IGNORED_MASS
    return total
