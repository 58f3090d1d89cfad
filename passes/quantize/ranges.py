"""Ranges of activations, from a stream of batches in bounded memory.

Each value has a histogram of ``BINS`` equal bins over ``[-limit, limit]``, where ``limit`` is a power of
two. A larger number doubles the limit and adds neighbouring bins pairwise, so nothing is lost, the
result does not depend on what came first, and memory stays at one histogram a value.

    min-max      everything seen fits
    percentile   cuts the same share of the numbers at both ends
    mse          the cut with the least expected squared error of rounding and clipping together
    entropy      the cut whose 8-bit histogram says the most about the original one (least Kullback-Leibler
                 divergence; Migacz 2017, 8-bit inference with TensorRT)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array

BINS = 8192
LEVELS = 255
_BINS_A_LEVEL = 4
_SHRINKS = np.linspace(1.0, 0.3, 71)


class RangeMethod(StrEnum):
    """How a range is chosen from what was seen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class ActivationScale:
    """Unsigned 8-bit: ``x ~ (q - zero_point) * scale``."""

    scale: np.float32
    zero_point: np.uint8


class Histogram:
    """What was seen of one value. Numbers that are not finite are left out."""

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0
        self.limit = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, array: Array, *, bins: bool = True) -> None:
        """Count ``array``; without ``bins`` only the extremes, which is all that min-max needs."""
        numbers = array.astype(np.float64).ravel()
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size == 0:
            return
        self.low = min(self.low, float(numbers.min()))
        self.high = max(self.high, float(numbers.max()))
        if not bins or not (largest := max(-self.low, self.high)):
            return
        self._grow(largest)
        places = np.floor((numbers / self.limit + 1.0) * (BINS // 2)).astype(np.int64)
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def _grow(self, largest: float) -> None:
        needed = 2.0 ** np.ceil(np.log2(largest))
        if self.limit == 0.0:
            self.limit = needed
        while self.limit < needed:
            self.limit *= 2.0
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate(
                [np.zeros(BINS // 4, np.int64), inner, np.zeros(BINS // 4, np.int64)]
            )

    def range(self, method: RangeMethod, percentile: float) -> tuple[float, float]:
        """The chosen ``(low, high)``, which always contains 0."""
        if method is RangeMethod.MIN_MAX or not self.counts.any():
            return self.low, self.high
        if method is RangeMethod.PERCENTILE:
            return self._percentile(percentile)
        return self._shrunk(self._information_lost if method is RangeMethod.ENTROPY else self._squared_error)

    def _edges(self) -> npt.NDArray[np.float64]:
        return np.linspace(-self.limit, self.limit, BINS + 1)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        share = np.cumsum(self.counts) / self.counts.sum()
        tail = 1.0 - percentile / 100.0
        edges = self._edges()
        low = edges[int(np.searchsorted(share, tail, side="right"))]
        high = edges[int(np.searchsorted(share, 1.0 - tail)) + 1]
        return max(min(float(low), 0.0), self.low), min(max(float(high), 0.0), self.high)

    def _shrunk(self, error: Callable[[float, float], float]) -> tuple[float, float]:
        """The ends, each moved inwards in turn, with the least error."""
        low, high = self.low, self.high
        for _ in range(2):
            low = self.low * min(_SHRINKS, key=lambda s: error(self.low * s, high))
            high = self.high * min(_SHRINKS, key=lambda s: error(low, self.high * s))
        return low, high

    def _squared_error(self, low: float, high: float) -> float:
        edges = self._edges()
        used = np.nonzero(self.counts)[0]
        centres, weights = (edges[used] + edges[used + 1]) / 2.0, self.counts[used].astype(np.float64)
        clipped = np.maximum(low - centres, 0.0) + np.maximum(centres - high, 0.0)
        step = (high - low) / LEVELS
        return float((weights * (clipped**2 + step**2 / 12.0)).sum())

    def _information_lost(self, low: float, high: float) -> float:
        """Divergence of what is left in 8 bits from what was seen, both as histograms of [low, high].

        What was cut off counts as seen at the ends. Eight bits tell only how many numbers a level holds: they
        are taken to be spread evenly over those bins of the level that were seen at all. Every range has as
        many bins, so that chance, and a heap of zeros behind a Relu, cost all the same.
        """
        if high - low < np.finfo(np.float32).tiny:
            return float("inf")
        below = np.concatenate([[0.0], np.cumsum(self.counts)])
        at = np.interp(np.linspace(low, high, (LEVELS + 1) * _BINS_A_LEVEL + 1), self._edges(), below)
        inside = np.diff(at)
        seen = inside.copy()
        seen[0] += at[0]
        seen[-1] += below[-1] - at[-1]
        by_level = inside.reshape(-1, _BINS_A_LEVEL)
        used = by_level > 0.0
        each = by_level.sum(axis=1, keepdims=True) / np.maximum(used.sum(axis=1, keepdims=True), 1)
        left = np.where(used, each, 0.0).ravel()
        if not left.any():
            return float("inf")
        return _divergence(seen / seen.sum(), left / left.sum())


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Of ``p`` from ``q``, in nats; where only ``q`` is 0 it counts as next to nothing."""
    some = p > 0.0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


def activation_scale(low: float, high: float) -> ActivationScale:
    """Scale and zero point for a range; 0 is represented exactly.

    A dead value (always 0 while calibrating) gets scale 1; a range beyond float32 gets the largest scale.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / LEVELS
    if step < np.finfo(np.float32).tiny:
        return ActivationScale(np.float32(1.0), np.uint8(0))
    scale = np.float32(min(step, float(np.finfo(np.float32).max)))
    return ActivationScale(scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, LEVELS)))
