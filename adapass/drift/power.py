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
LARGEST_LOG = 600.0


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
    # Runs last: sums over few categories are then sums of long rows.
    total = np.zeros((len(stream) + 1, stream.shape[2], stream.shape[1]), np.int32)
    stream.transpose(0, 2, 1).cumsum(axis=0, out=total[1:])
    table = _xlogx(np.arange(BLOCK * len(stream) + 1, dtype=np.float64))
    needed = 2 / false_alarm_rate
    log_shares = np.log(np.maximum(reference / reference.sum(axis=-1, keepdims=True), TINY_SHARE)).T
    prior = priors(reference)
    runs = len(reference)
    found: Integers = np.zeros(runs, np.int64)
    alive: Integers = np.arange(runs, dtype=np.int64)
    for now in range(1, len(total)):
        begin = starts(now)
        seen = (total[now] - total[begin])[:, :, alive]
        # No mixture is above the likelihood of the stretch's own shares.
        own = table[seen].sum(axis=1) - table[BLOCK * (now - begin), None]
        belief = log_belief(begin)[:, None]
        evidence = np.asarray(belief + own - (seen * log_shares[:, alive]).sum(axis=1), np.float64)
        loose = np.ones(evidence.shape, np.bool_)
        # First the stretches that might reach the threshold alone, then all that might together.
        for enough in (math.log(needed / len(begin)), -math.inf):
            hopeful = _total(evidence) >= needed
            window, run = np.nonzero(loose & hopeful & (evidence >= enough))
            counts, which = seen[window, :, run].astype(np.float64), alive[run]
            exact = log_mixture(counts, prior[which]) - best(counts, which)
            evidence[window, run] = belief[window, 0] + exact
            loose[window, run] = False
        raised = _total(evidence) >= needed
        found[alive[raised]] = now
        alive = alive[~raised]
        if len(alive) == 0:
            break
    return found


def _xlogx(values: Floats) -> Floats:
    return np.asarray(special.xlogy(values, values), np.float64)


def _total(evidence: Floats) -> Floats:
    """Sum over stretches, the first axis, of what comes as logarithms; cut off far above any threshold."""
    return np.asarray(np.exp(np.minimum(evidence, LARGEST_LOG)).sum(axis=0), np.float64)
