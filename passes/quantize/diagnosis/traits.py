"""What about a weight or an activation makes 8 bits coarse, measured.

One scale for several channels gives each of them the step of the largest. The overall error hides that (the
largest channel dominates it), so errors are those of the median channel, relative to its own size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.errors import DataError
from adapass.execution import Session
from adapass.passes.quantize.fitting import spread
from adapass.passes.quantize.ranges import BINS, LEVELS, Histogram, activation_scale
from adapass.passes.quantize.sensitivity import Rounding
from adapass.passes.quantize.sites import Site

MOST = 0.99
"""The share of the numbers that is meant by "most"."""
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Channels:
    """How unequal channels are, and what rounding does to the median one."""

    largest: int
    """The channel that reaches furthest."""
    ratio: float
    """Its largest magnitude over that of the median channel."""
    error: float
    """Root mean square of the rounding error over that of the numbers, in the median channel."""


@dataclass(frozen=True, slots=True)
class ActivationTraits:
    """Of one value that is rounded at one scale."""

    channels: Channels
    low: float
    high: float
    levels: float
    """How many of the 255 levels the middle 99 % of the numbers spread over."""
    gap: float
    """Share of the range between zero, which it has to contain, and where the numbers begin."""
    clipped: float
    """Share of the numbers outside the range."""


def weight_channels(site: Site, rounded: Array) -> Channels:
    """Of a weight and what it is rounded to, along its output channels."""
    exact = np.moveaxis(site.weight.astype(np.float64), site.channel_axis, 0)
    near = np.moveaxis(rounded.astype(np.float64), site.channel_axis, 0)
    rows = exact.reshape(len(exact), -1)
    error = rows - near.reshape(len(near), -1)
    return _channels(np.abs(rows).max(axis=1), (rows**2).sum(axis=1), (error**2).sum(axis=1))


def activation_traits(
    model: ir.Model, axes: Mapping[str, int], samples: Samples, options: Rounding
) -> dict[str, ActivationTraits]:
    """Traits of values of the main graph, by name; ``axes`` are their channel axes.

    Two runs over the calibration samples: one for the ranges, one for what rounding to them does.

    Raises:
        DataError: there are no samples.

    """
    if len(samples) == 0:
        raise DataError("the data has no samples to watch activations on; give at least one")
    indices = spread(len(samples), options.calibration_samples)
    inputs = {value.name for value in model.graph.inputs}
    session = Session(model, outputs=[name for name in axes if name not in inputs])
    histograms = {name: Histogram() for name in axes}
    for values in _values(session, samples, indices):
        for name, histogram in histograms.items():
            histogram.add(values[name])
    ranges = {name: h.range(options.ranges, options.percentile) for name, h in histograms.items()}
    sums = {name: _Sums(*ranges[name], axis) for name, axis in axes.items()}
    for values in _values(session, samples, indices):
        for name, sum_ in sums.items():
            sum_.add(values[name])
    return {name: sums[name].traits(histograms[name]) for name in axes}


def _values(session: Session, samples: Samples, indices: Sequence[int]) -> Iterator[Mapping[str, Array]]:
    """Inputs and watched values, one sample at a time: padding never counts."""
    for index in indices:
        feeds = samples.feeds(index)
        yield {**feeds, **(session.run(feeds) if session.outputs else {})}


class _Sums:
    """What rounding to one range does to each channel, summed over samples."""

    def __init__(self, low: float, high: float, axis: int) -> None:
        self._low, self._high, self._axis = low, high, axis
        self._scale = activation_scale(low, high)
        self._largest: Doubles | None = None
        self._squares: Doubles | None = None
        self._errors: Doubles | None = None
        self._clipped = 0
        self._count = 0

    def add(self, array: Array) -> None:
        numbers = np.moveaxis(array.astype(np.float64), self._axis, 0)
        rows = np.where(np.isfinite(numbers), numbers, 0.0).reshape(len(numbers), -1)
        step, zero = float(self._scale.scale), float(self._scale.zero_point)
        near = (np.clip(np.rint(rows / step) + zero, 0, LEVELS) - zero) * step
        self._largest = _combined(np.maximum, self._largest, np.abs(rows).max(axis=1, initial=0.0))
        self._squares = _combined(np.add, self._squares, (rows**2).sum(axis=1))
        self._errors = _combined(np.add, self._errors, ((rows - near) ** 2).sum(axis=1))
        self._clipped += int(((rows < self._low - step / 2) | (rows > self._high + step / 2)).sum())
        self._count += rows.size

    def traits(self, histogram: Histogram) -> ActivationTraits:
        assert self._largest is not None  # there was a sample
        assert self._squares is not None
        assert self._errors is not None
        width = max(self._high - self._low, float(np.finfo(np.float64).tiny))
        begin, end = middle(histogram)
        return ActivationTraits(
            channels=_channels(self._largest, self._squares, self._errors),
            low=self._low,
            high=self._high,
            levels=min(float(LEVELS), LEVELS * (end - begin) / width),
            gap=max(begin, -end, 0.0) / width,
            clipped=self._clipped / max(self._count, 1),
        )


def middle(histogram: Histogram) -> tuple[float, float]:
    """Where the middle 99 % of what was seen lie."""
    if not histogram.counts.any():
        return histogram.low, histogram.high
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(-histogram.limit, histogram.limit, BINS + 1)
    tail = (1.0 - MOST) / 2.0
    begin, end = np.searchsorted(share, tail, side="right"), np.searchsorted(share, 1.0 - tail)
    return float(edges[int(begin)]), float(edges[int(end) + 1])


def _combined(how: np.ufunc, so_far: Doubles | None, more: Doubles) -> Doubles:
    return more if so_far is None else np.asarray(how(so_far, more), np.float64)


def _channels(largest: Doubles, squares: Doubles, errors: Doubles) -> Channels:
    """Channels that are always zero do not count: nothing is lost in them."""
    alive = np.nonzero(largest > 0.0)[0]
    if not alive.size:
        return Channels(0, 1.0, 0.0)
    furthest = int(alive[np.argmax(largest[alive])])
    ratio = float(largest[furthest] / np.median(largest[alive]))
    return Channels(furthest, ratio, float(np.median(np.sqrt(errors[alive] / squares[alive]))))
