"""One-sided p-values and upper confidence bounds for the mean of bounded losses, valid at every n."""

from __future__ import annotations

from enum import StrEnum

from scipy import special

from adapass.certify.betting import betting_p_value
from adapass.certify.losses import Losses, Metric
from adapass.certify.paired import paired_p_value
from adapass.errors import UsageError


class Method(StrEnum):
    """How a mean is bounded. Follows from the metric alone, never from the values seen."""

    CLOPPER_PEARSON = "clopper-pearson"
    """Losses 0 or 1: exact binomial."""
    EXACT_PAIRED = "exact-paired"
    """Losses -1, 0 or 1: exact unconditional trinomial, see ``paired``."""
    BETTING = "betting"
    """Anything bounded, see ``betting``."""


def method_for(metric: Metric) -> Method:
    if not metric.discrete:
        return Method.BETTING
    return Method.EXACT_PAIRED if metric.needs_labels else Method.CLOPPER_PEARSON


def p_value(losses: Losses, max_drop: float, confidence: float = 0.95) -> float:
    """P-value of the null "the mean loss of the population is ``max_drop`` or more".

    To be held against 1 - ``confidence``, which must be fixed before looking.

    Raises:
        UsageError: a drop outside [0, 1) or a confidence outside [0.5, 1).

    """
    check_budget(max_drop, confidence)
    error = 1 - confidence
    match method_for(losses.metric):
        case Method.CLOPPER_PEARSON:
            return float(special.bdtr(losses.worse, len(losses), max_drop)) if max_drop > 0 else 1.0
        case Method.EXACT_PAIRED:
            return paired_p_value(losses.worse, losses.better, len(losses), max_drop, error)
        case Method.BETTING:
            return betting_p_value(losses.values, losses.low, max_drop, error)


def upper_bound(losses: Losses, confidence: float = 0.95, *, tolerance: float = 1e-4) -> float:
    """With ``confidence`` the true drop is below this: the smallest drop, to ``tolerance``, ruled out.

    Found by bisection over the test. A bound of 1 says nothing. It is a statement about one candidate, not
    corrected for a choice among several: what survives a choice is the test at the budget (``sequence``).
    """
    error = 1 - confidence
    low, high = max(losses.mean, 0.0), 1.0
    while high - low > tolerance:
        # Bounds are mostly near the mean: growing steps are cheaper than halving from 1.
        middle = min((low + high) / 2, low + max(tolerance, low - losses.mean, 0.25 / len(losses) ** 0.5))
        if p_value(losses, middle, confidence) <= error:
            high = middle
        else:
            low = middle
    return high


def check_budget(max_drop: float, confidence: float) -> None:
    """Raises UsageError for a drop outside [0, 1) or a confidence outside [0.5, 1)."""
    if not 0 <= max_drop < 1:
        raise UsageError(f"max drop {max_drop} found; a share in [0, 1) expected, 0.01 is one point")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence {confidence} found; a share in [0.5, 1) expected, usually 0.95")
