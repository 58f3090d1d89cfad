"""A tensor's change as a few signs and one scale (ComPEFT, Yadav et al. 2023, arXiv:2311.13171).

    fine - base  ~  scale * sign       at the largest changes, 0 elsewhere

The paper scales by a multiple of the standard deviation that it searches; here the multiple is of the scale
with the least squared error, which is the mean magnitude of what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ternary:
    """What is kept of a change of ``size`` numbers."""

    positions: npt.NDArray[np.int64]
    negative: npt.NDArray[np.bool_]
    scale: float
    """A float32, so that it is the same in the file."""

    def change(self, size: int) -> Doubles:
        found = np.zeros(size)
        found[self.positions] = np.where(self.negative, -self.scale, self.scale)
        return found


def ternary(change: Doubles, density: float, alpha: float = 1.0) -> Ternary:
    """The ``density`` share of largest magnitude (one number at least); ties go to the first."""
    size = change.size
    count = min(size, max(1, round(density * size)))
    magnitudes = np.abs(change)
    least = np.partition(magnitudes, size - count)[size - count]
    above = np.flatnonzero(magnitudes > least)
    equal = np.flatnonzero(magnitudes == least)[: count - len(above)]
    kept = np.sort(np.concatenate([above, equal]))
    kept = kept[magnitudes[kept] > 0.0]
    scale = float(np.float32(alpha * magnitudes[kept].mean())) if kept.size else 0.0
    return Ternary(kept.astype(np.int64), change[kept] < 0.0, scale)


def applied(base: Array, kept: Ternary) -> Array:
    """``base`` with the change added, rounded to its type."""
    numbers = base.astype(np.float64).ravel()
    numbers[kept.positions] += np.where(kept.negative, -kept.scale, kept.scale)
    return numbers.astype(base.dtype).reshape(base.shape)
