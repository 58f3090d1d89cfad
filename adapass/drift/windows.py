"""Which stretches of the stream are looked at, and how much belief each start gets.

A drift may begin at any time, and evidence from before it only dilutes what comes after. So the evidence
is computed over many stretches that end now. Time is counted in blocks of ``BLOCK`` samples. A
stretch of ``age`` blocks that ends after block ``now`` is looked at when

    age < 16,   or   2^j divides both age and now, where 2^(j+3) <= age < 2^(j+4),

and the whole stream always is. That is eight lengths an octave: 24 stretches a block on average, at most
16 + 8 log2(now). Whenever a drift begins, a stretch that begins at most an eighth of its own length later
is looked at within another eighth.

The starts share the belief 1: half for the very first block, the rest falls slowly,
w(s) = 1/2 (1 / (1 + log2 s) - 1 / (1 + log2(s + 1))) for s >= 1, which telescopes to 1/2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BLOCK = 8
"""Samples between two looks. Fewer cost time at every sample; more delay the alarm."""
LENGTHS = 8
"""Lengths an octave."""


def starts(now: int) -> Integers:
    """How many blocks came before each stretch that ends after block ``now`` (1 = the first); ascending."""
    ages = list(range(1, min(2 * LENGTHS, now + 1)))
    step = 2
    while now % step == 0 and LENGTHS * step <= now:
        ages += range(LENGTHS * step, min(2 * LENGTHS * step, now + 1), step)
        step *= 2
    if ages[-1] != now:
        ages.append(now)
    return now - np.array(ages[::-1], np.int64)


def still_needed(start: int, now: int) -> bool:
    """Whether a stretch from ``start`` >= 1 can end after block ``now``."""
    reach = start & -start
    return now - start < 2 * LENGTHS * reach - reach


def log_belief(begin: Integers) -> Floats:
    """Logarithm of w(start); the sum of w over all starts is 1."""
    later = np.maximum(begin, 1).astype(np.float64)
    depth, deeper = 1 + np.log2(later), 1 + np.log2(later + 1)
    falling: Floats = np.log(np.log1p(1 / later) / np.log(2)) - np.log(depth) - np.log(deeper)
    return np.asarray(np.log(0.5) + np.where(begin == 0, 0.0, falling), np.float64)


def kept_starts(now: int) -> tuple[int, ...]:
    """Every start from which a stretch can end after block ``now``: about 8 log2(now) of them; ascending."""
    kept = {0}
    reach = 1
    while reach <= now:
        first = max(now - (2 * LENGTHS - 1) * reach + 1, 1)
        candidates = range(-(-first // reach) * reach, now + 1, reach)
        kept.update(start for start in candidates if still_needed(start, now))
        reach *= 2
    return tuple(sorted(kept))
