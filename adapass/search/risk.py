"""What certification will probably say of a candidate, judged by its losses on the search samples.

The mean loss of a few hundred samples says little: of 100 verdicts that change, 55 may get worse and 45
better, and the fastest of ten plans is also the luckiest. How many verdicts change is known far better, and
it is what the certificate pays for: its bound lies that many standard errors above the mean.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

NET_SHARE = 0.12
"""Of the verdicts that change, the surplus that gets worse, at least: 0.08 to 0.2 was seen where layers were
removed, refitted and in 8 bits. A plan with less was lucky on the search samples."""


def discordance(losses: npt.NDArray[np.float64]) -> float:
    """Mean square of paired losses, one sample that changed added: the share of verdicts that change."""
    return (float(np.sum(losses**2)) + 1.0) / (len(losses) + 1)


def cautious(loss: float, changed: float) -> float:
    """The mean loss to expect where a share of verdicts changes, measured ``loss`` on the search samples."""
    return max(loss, NET_SHARE * changed)


def expected_bound(losses: npt.NDArray[np.float64], *, samples: int, confidence: float) -> float:
    """The upper bound on the mean loss that ``samples`` fresh samples will give, as near as can be told."""
    return bound_of(float(np.mean(losses)), discordance(losses), samples=samples, confidence=confidence)


def bound_of(loss: float, changed: float, *, samples: int, confidence: float) -> float:
    """The same from a mean loss and the share of verdicts that change."""
    margin = NormalDist().inv_cdf(confidence) * math.sqrt(changed / max(samples, 1))
    return cautious(loss, changed) + margin
