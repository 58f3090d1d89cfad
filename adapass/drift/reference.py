"""What is known about the shares of the categories: counts on a reference sample, and what they allow.

The reference is itself a sample. Its region is a box: Clopper-Pearson bounds for each of K categories, each
side at error ``error / (2 K)``, so the true shares lie between them with probability at least 1 - ``error``
(union bound). Against a ball in relative entropy (Agrawal, IEEE Trans. Inf. Theory 2020), which treats all
categories at once, boxes gave the earlier alarm in every simulated case (``benchmarks/drift.py``): drift
is a few categories that change a lot, not all of them a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from adapass.errors import UsageError

Floats = npt.NDArray[np.float64]

MAX_CATEGORIES = 256
MAX_SAMPLES = 10**12


@dataclass(frozen=True, slots=True)
class Reference:
    """Counts of each category on a reference sample, drawn independently of the stream that is watched."""

    counts: tuple[int, ...]
    position: int = 0
    """Place of these counts among several candidates that shared the reference sample, 0 = the first.

    Which candidate ships was chosen by looking at that same sample, so its counts are not quite random ones.
    The candidate at place i gets the share 1 / ((i + 1) (i + 2)) of the error; the shares of all places sum
    to 1, so the bounds of all candidates hold together, whichever was chosen.
    """

    def __post_init__(self) -> None:
        if not 1 <= len(self.counts) <= MAX_CATEGORIES:
            raise UsageError(f"reference has {len(self.counts)} categories, expected 1 to {MAX_CATEGORIES}")
        if any(count < 0 for count in self.counts) or not 1 <= sum(self.counts) <= MAX_SAMPLES:
            raise UsageError(
                f"reference counts {list(self.counts)}: none below 0, a sum of 1 to {MAX_SAMPLES:,} expected"
            )
        if self.position < 0:
            raise UsageError(f"reference position is {self.position}, expected 0 or more")

    @staticmethod
    def from_shares(shares: Sequence[float], samples: int, position: int = 0) -> Reference:
        """The counts behind shares that were measured on ``samples`` samples.

        Raises:
            UsageError: the shares are not counts of that many samples.

        """
        counts = tuple(round(share * samples) if 0 <= share <= 1 else -1 for share in shares)
        fits = all(abs(s * samples - c) < 1e-3 for s, c in zip(shares, counts, strict=True))
        if not fits or sum(counts) != samples:
            raise UsageError(
                f"expected shares {list(shares)} are not the shares of {samples} samples; "
                "give the number of samples they were measured on"
            )
        return Reference(counts, position)

    @property
    def samples(self) -> int:
        return sum(self.counts)

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(count / self.samples for count in self.counts)

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """Lower and upper ends of the true shares; all hold together but for probability ``error``."""
        places = (self.position + 1) * (self.position + 2)
        return clopper_pearson(np.array(self.counts, np.float64), error / places)


def clopper_pearson(counts: Floats, error: float) -> tuple[Floats, Floats]:
    """Bounds for the shares behind ``counts`` [..., K], wrong anywhere with probability ``error``."""
    side = error / (2 * counts.shape[-1])
    rest: Floats = counts.sum(axis=-1, keepdims=True) - counts
    low = np.where(counts > 0, special.betaincinv(np.maximum(counts, 1), rest + 1, side), 0.0)
    high = np.where(rest > 0, special.betaincinv(counts + 1, np.maximum(rest, 1), 1 - side), 1.0)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)
