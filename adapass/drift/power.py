"""How many samples until the alarm: whole streams simulated side by side, with the monitor's own arithmetic.

Only counts at the ends of blocks matter, so blocks are drawn, not samples. Where not even the best possible
mixture, held against one member of the region (the reference's own shares), could reach the threshold,
nothing is computed exactly; this changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from adapass.drift.evidence import log_best, log_mixture, priors
from adapass.drift.reference import Reference
from adapass.drift.windows import BLOCK, log_belief, starts
from adapass.errors import UsageError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
LogBest = Callable[[Floats, Integers], Floats]
"""Largest log likelihood over the region of each run: counts [N, categories], runs [N]."""

TINY_SHARE = 1e-300


def samples_to_alarm(
    reference: Reference,
    shares: Sequence[float],
    *,
    calm: int = 0,
    false_alarm_rate: float = 0.01,
    limit: int = 20_000,
    runs: int = 200,
    seed: int = 0,
) -> tuple[int | None, ...]:
    """How many samples after the drift begins the alarm comes in each simulated stream; ``None``: never.

    A stream draws from the reference's shares for ``calm`` samples, then from ``shares`` for ``limit``
    samples, both rounded up to whole blocks. An alarm within the calm part counts as 0.

    Raises:
        UsageError: ``shares`` is not a distribution over the categories of the reference.

    """
    drifted = np.array(shares, np.float64)
    if drifted.shape != (len(reference.counts),) or drifted.min() < 0 or abs(drifted.sum() - 1) > 1e-9:
        raise UsageError(f"shares {list(shares)}: {len(reference.counts)} shares that sum to 1 expected")
    rng = np.random.default_rng(seed)
    before = draw(rng, np.array(reference.shares), runs, calm)
    stream = np.concatenate([before, draw(rng, drifted / drifted.sum(), runs, limit)])
    counts = np.tile(np.array(reference.counts, np.float64), (runs, 1))
    low, high = reference.bounds(false_alarm_rate / 2)

    def best(seen: Floats, which: Integers) -> Floats:
        del which
        return log_best(seen, low, high)

    found = first_alarms(stream, counts, best, false_alarm_rate)
    begun = len(before) * BLOCK
    return tuple(None if block == 0 else max(int(block) * BLOCK - begun, 0) for block in found)


def draw(rng: np.random.Generator, shares: Floats, runs: int, samples: int) -> Integers:
    """Counts of each block, shape [blocks, runs, categories]."""
    return rng.multinomial(BLOCK, shares, (math.ceil(samples / BLOCK), runs))


def first_alarms(stream: Integers, reference: Floats, best: LogBest, false_alarm_rate: float) -> Integers:
    """The block after which each run raises its alarm, 1 = the first; 0 for none.

    ``stream`` is [blocks, runs, categories], ``reference`` the counts of each run [runs, categories].
    """
    total = np.concatenate([np.zeros_like(stream[:1]), stream.cumsum(axis=0)])
    needed = math.log(2 / false_alarm_rate)
    log_shares = np.log(np.maximum(reference / reference.sum(axis=-1, keepdims=True), TINY_SHARE))
    prior = priors(reference)
    runs = len(reference)
    found: Integers = np.zeros(runs, np.int64)
    alive: Integers = np.arange(runs, dtype=np.int64)
    for now in range(1, len(total)):
        begin = starts(now)
        belief = log_belief(begin)
        seen = (total[now][alive] - total[begin][:, alive]).astype(np.float64)
        # No mixture is above the likelihood of the stretch's own shares.
        own = _xlogx(seen).sum(axis=-1) - _xlogx(seen.sum(axis=-1))
        most: Floats = belief[:, None] + own - (seen * log_shares[alive]).sum(axis=-1)
        evidence = np.full(most.shape, -np.inf)
        window, run = np.nonzero(most >= needed - math.log(len(begin)))
        if len(run) == 0:
            continue
        bound = best(seen[window, run], alive[run])
        exact = log_mixture(seen[window, run], prior[alive[run]]) - bound
        evidence[window, run] = belief[window] + exact
        raised = np.logaddexp.reduce(evidence, axis=0) >= needed
        found[alive[raised]] = now
        alive = alive[~raised]
        if len(alive) == 0:
            break
    return found


def _xlogx(values: Floats) -> Floats:
    return np.asarray(special.xlogy(values, values), np.float64)
