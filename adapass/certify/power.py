"""Before the search: can this much data support that budget?"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from adapass.certify.betting import betting_p_value
from adapass.certify.bounds import Method, check_budget
from adapass.certify.paired import paired_p_value
from adapass.errors import UsageError

TYPICAL_DISCORDANCE = 0.03
"""Share of samples on which a candidate worth having and its original differ in being right."""
UNLUCKY = 1.2815515594457831
"""Standard errors: nine of ten data sets are luckier."""
MOST_SAMPLES = 10_000_000
EXACT_UP_TO = 20_000
"""Above, the normal approximation is as good, and the exact tests take seconds."""


def required_samples(
    max_drop: float,
    confidence: float = 0.95,
    *,
    expected_discordance: float = 0.0,
    method: Method = Method.EXACT_PAIRED,
) -> int | None:
    """Certify samples with which a candidate of no true drop passes in nine of ten cases.

    ``expected_discordance`` is the share of samples with a different verdict: 0 for the least number there
    can be, ``TYPICAL_DISCORDANCE`` for a realistic one. Without labels every difference counts as a loss.
    ``None`` where no number of samples would do.
    """
    check_budget(max_drop, confidence)
    if not 0 <= expected_discordance <= 1:
        raise UsageError(f"expected discordance {expected_discordance} found; a share in [0, 1] expected")
    about = _normal_size(max_drop, confidence, expected_discordance)
    if about > EXACT_UP_TO and method is Method.EXACT_PAIRED:
        return math.ceil(about)
    high = 1
    while not _passes(high, max_drop, confidence, expected_discordance, method):
        high *= 2
        if high > MOST_SAMPLES or max_drop == 0:
            return None
    low = high // 2
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        if _passes(middle, max_drop, confidence, expected_discordance, method):
            high = middle
        else:
            low = middle
    return high


def smallest_budget(
    samples: int,
    confidence: float = 0.95,
    *,
    expected_discordance: float = 0.0,
    method: Method = Method.EXACT_PAIRED,
) -> float:
    """The smallest drop that ``samples`` can certify for such a candidate, rounded up to 0.01 point."""
    check_budget(0.0, confidence)
    if samples < 1:
        raise UsageError(f"{samples} samples found; at least 1 expected")
    low, high = 0.0, 1.0
    while high - low > 5e-5:
        middle = (low + high) / 2
        if _passes(samples, middle, confidence, expected_discordance, method):
            high = middle
        else:
            low = middle
    return math.ceil(high * 1e4 - 1e-6) / 1e4


def data_message(
    samples: int, max_drop: float, confidence: float = 0.95, *, method: Method = Method.EXACT_PAIRED
) -> str | None:
    """What to tell the user before the search; ``None`` when a typical candidate can be certified."""
    # Without labels every difference is a loss, and no share of losses is typical for all budgets.
    discordance = TYPICAL_DISCORDANCE if method is Method.EXACT_PAIRED else 0.0
    if _passes(samples, max_drop, confidence, discordance, method):
        return None
    start = f"{samples:,} certify samples, budget {100 * max_drop:.4g} points at {100 * confidence:.4g} %: "
    least = required_samples(max_drop, confidence, method=method)
    if least is None:
        return f"{start}a budget of 0 can only be certified for a result that is better than the original"
    if samples < least:
        smallest = smallest_budget(samples, confidence, method=method)
        return (
            f"{start}too few even for a result without a single loss; at least {least:,} are needed, "
            f"these support {100 * smallest:.4g} points at best"
        )
    typical = required_samples(max_drop, confidence, expected_discordance=TYPICAL_DISCORDANCE, method=method)
    wish = "no number of samples certifies" if typical is None else f"about {typical:,} certify"
    return (
        f"{start}enough only for results that differ from the original on very few samples; "
        f"{wish} one that differs on {100 * TYPICAL_DISCORDANCE:.4g} %"
    )


def _normal_size(max_drop: float, confidence: float, discordance: float) -> float:
    if max_drop == 0:
        return 0.0
    return discordance * ((float(special.ndtri(confidence)) + UNLUCKY) / max_drop) ** 2


def _passes(samples: int, max_drop: float, confidence: float, discordance: float, method: Method) -> bool:
    worse, better = _unlucky_counts(samples, discordance, method)
    return _p_value(worse, better, samples, max_drop, confidence, method) <= 1 - confidence


def _unlucky_counts(samples: int, discordance: float, method: Method) -> tuple[int, int]:
    expected = samples * discordance
    if method is not Method.EXACT_PAIRED:
        spread = UNLUCKY * math.sqrt(expected * (1 - discordance))
        return min(samples, math.ceil(expected + spread) if expected else 0), 0
    spread = UNLUCKY * math.sqrt(expected)
    better = max(0, math.floor((expected - spread) / 2))
    return min(samples - better, math.ceil((expected + spread) / 2)), better


@lru_cache(maxsize=4096)
def _p_value(
    worse: int, better: int, samples: int, max_drop: float, confidence: float, method: Method
) -> float:
    """Of right/wrong losses, which are the hardest for ``BETTING``."""
    if max_drop == 0 and method is not Method.EXACT_PAIRED:
        return 1.0
    match method:
        case Method.CLOPPER_PEARSON:
            return float(special.bdtr(worse, samples, max_drop))
        case Method.EXACT_PAIRED:
            return paired_p_value(worse, better, samples, max_drop, 1 - confidence)
        case Method.BETTING:
            return _betting_p_value(worse, samples, max_drop, 1 - confidence)


def _betting_p_value(worse: int, samples: int, max_drop: float, error: float) -> float:
    if samples > EXACT_UP_TO:
        # What the best fixed stake earns; playing millions of rounds would take minutes.
        share = min(worse / samples, max_drop)
        divergence = special.rel_entr(share, max_drop) + special.rel_entr(1 - share, 1 - max_drop)
        return math.exp(-samples * float(divergence))
    values = np.zeros(samples)
    values[:worse] = 1
    return betting_p_value(values, -1.0, max_drop, error)
