"""Latency by size from few measurements: straight lines, steps at tile edges, and how far off they may be.

A kernel works in tiles. On a processor with 512-bit registers a convolution from 33 to 48 channels took
240 us and one with 32 took 190: between two measured sizes lies a step, not a line. A curve therefore
interpolates along a coordinate that may jump at multiples of ``tile``; how much of the way is a jump is
learned from measurements, never assumed (``learn_steps``). Sizes that are no multiple of ``grain``, for which
libraries have slower kernels, get a learned factor.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Final

from adapass.cost.estimate import Estimate
from adapass.cost.model import FREE, Cost, Trust

NOISE: Final = 0.02
"""Relative error of a careful measurement on a quiet machine."""
BETWEEN: Final = 0.3
LEAST_BETWEEN: Final = 0.02
BEYOND: Final = 0.25
"""Relative error of a size twice as far out as the last measured one."""
SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Steps:
    """How latency follows a size between measurements."""

    tile: int = 1
    share: float = 0.0
    """0: along a line; 1: in jumps behind multiples of ``tile``."""
    grain: int = 1
    penalty: float = 1.0
    """Factor for sizes that are no multiple of ``grain``."""

    def coordinate(self, size: int) -> float:
        """Where ``size`` lies for interpolation. Within the first tile kernels differ; there it is a line."""
        if size <= self.tile:
            return float(size)
        return (1 - self.share) * size + self.share * self.tile * math.ceil(size / self.tile)

    def factor(self, size: int) -> float:
        return 1.0 if size % self.grain == 0 else self.penalty


SMOOTH: Final = Steps()


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost by size (samples of a batch, tokens, channels), measured at some sizes.

    Below the smallest measured size the cost stays (launches and weights are paid for one sample too),
    above the largest it grows in proportion.
    """

    points: Mapping[int, Cost]
    steps: Steps = SMOOTH
    between: float = BETWEEN
    """Share of the difference of two neighbours by which a value between them may miss the line."""

    def __post_init__(self) -> None:
        if not self.points or min(self.points) < 1:
            raise ValueError("a cost curve needs at least one measured batch size, all at least 1")

    def at(self, samples: int) -> Cost:
        """Cost at a size; nothing costs nothing."""
        if samples == 0:
            return FREE
        if samples in self.points:
            return self.points[samples]
        place = self._place(samples)
        trust = min(Trust.MODEL, self.points[place.low].trust, self.points[place.high].trust)
        seconds = (1 - place.share) * self._even(place.low) + place.share * self._even(place.high)
        return Cost(max(seconds, 0.0) * place.growth * self.steps.factor(samples), trust)

    def estimate(self, size: int, noise: float = NOISE) -> Estimate:
        """The cost with its interval: noise, and for sizes that were not measured the error of the line."""
        cost = self.at(size)
        if size == 0 or size in self.points or not cost.seconds:
            return Estimate.of(cost, noise)
        place = self._place(size)
        if place.outside:
            return Estimate.of(cost, noise + min(1.0, BEYOND * abs(math.log2(size / place.low))))
        rise = abs(self.points[place.high].seconds - self.points[place.low].seconds)
        # In the middle of a wide gap the line is furthest from what it joins.
        gap = self.between * rise * 4 * place.share * (1 - place.share)
        return Estimate.of(cost, noise + gap / cost.seconds)

    def with_point(self, size: int, cost: Cost) -> Curve:
        return replace(self, points={**self.points, size: cost})

    def confirmed(self, size: int, missed_seconds: float) -> Curve:
        """A point between two others was measured and missed the line by so much: so much for the rest."""
        place = self._place(size)
        rise = abs(self.points[place.high].seconds - self.points[place.low].seconds)
        share = 2 * abs(missed_seconds) / rise if rise else 0.0
        return replace(self, between=min(BETWEEN, max(LEAST_BETWEEN, share)))

    def _even(self, size: int) -> float:
        """The measured seconds, without the penalty of an odd size."""
        return self.points[size].seconds / self.steps.factor(size)

    def _place(self, size: int) -> _Place:
        # Odd sizes run on other kernels than even ones; the others count where there is nothing else.
        odd = size % self.steps.grain != 0
        like = [each for each in self.points if (each % self.steps.grain != 0) == odd]
        sizes = sorted(like if len(like) > 1 else self.points)
        where = self.steps.coordinate(size)
        places = [self.steps.coordinate(each) for each in sizes]
        above = bisect_left(places, where)
        if above == len(sizes):
            return _Place(sizes[-1], sizes[-1], growth=where / places[-1], outside=True)
        if places[above] == where:
            level = [each for each, place in zip(sizes, places, strict=True) if place == where]
            nearest = min(level, key=lambda each: (abs(each - size), each))
            return _Place(nearest, nearest)
        if above > 0:
            span = places[above] - places[above - 1]
            return _Place(sizes[above - 1], sizes[above], (where - places[above - 1]) / span)
        return _Place(sizes[0], sizes[0], outside=True)


@dataclass(frozen=True, slots=True)
class _Place:
    """The measured sizes around one, and how far between them it lies."""

    low: int
    high: int
    share: float = 0.0
    growth: float = 1.0
    outside: bool = False


def learn_steps(curves: Iterable[Curve], tile: int, grains: Sequence[int]) -> Steps:
    """How the family behaves between its points: what predicts each point best from the others.

    ``grains`` are the numbers of channels that kernels may want multiples of, the likeliest first.

    A step is only believed where a point was measured just behind an edge; without one the line stays.
    """
    several = [curve for curve in curves if len(curve.points) > 2]
    options = [Steps(tile, share, grain) for grain in grains for share in SHARES]
    options = [replace(steps, penalty=_penalty(several, steps)) for steps in options]
    errors = [round(_left_out(several, steps), 6) for steps in options]
    return options[errors.index(min(errors))]


def _penalty(curves: Sequence[Curve], steps: Steps) -> float:
    """What odd sizes cost more than even ones would at their place."""
    ratios: list[float] = []
    for curve in curves:
        even = {size: cost for size, cost in curve.points.items() if size % steps.grain == 0}
        odd = [size for size in curve.points if size % steps.grain]
        if len(even) > 1:
            line = Curve(even, replace(steps, grain=1))
            ratios += [curve.points[size].seconds / line.at(size).seconds for size in odd]
    return max(1.0, median(ratios)) if ratios else 1.0


def _left_out(curves: Sequence[Curve], steps: Steps) -> float:
    """Mean absolute error, as a logarithm, of inner points predicted from the others."""
    errors = [0.0]
    for curve in curves:
        for size in sorted(curve.points)[1:-1]:
            others = {each: cost for each, cost in curve.points.items() if each != size}
            said = Curve(others, steps).at(size).seconds
            errors.append(abs(math.log(max(said, 1e-12) / max(curve.points[size].seconds, 1e-12))))
    return sum(errors) / len(errors)


def refine(
    curve: Curve,
    measure: Callable[[int], Cost],
    *,
    tolerance: float,
    most: int,
    tile: int = 1,
    candidates: Sequence[int] | None = None,
) -> Curve:
    """Measure where the curve is least certain until it is known to ``tolerance``, ``most`` points at most.

    A new point that misses its prediction by more than ``tolerance`` shows that the line is wrong there: then
    the other side of the nearest tile edge is measured too, so that a step ends up between two points.
    """
    while len(curve.points) < most:
        size = _least_certain(curve, tolerance, tile, candidates)
        if size is None:
            return curve
        said = curve.at(size).seconds
        found = measure(size)
        missed = found.seconds - said
        if abs(missed) <= tolerance * found.seconds:
            curve = curve.confirmed(size, missed).with_point(size, found)
            continue
        curve = curve.with_point(size, found)
        edge = size // tile * tile if size % tile else size + max(1, curve.steps.grain)
        if tile > 1 and edge > 0 and edge not in curve.points and len(curve.points) < most:
            curve = curve.with_point(edge, measure(edge))
    return curve


def _least_certain(curve: Curve, tolerance: float, tile: int, candidates: Sequence[int] | None) -> int | None:
    """The candidate with the widest interval; ``None`` when all are within ``tolerance``."""
    options = candidates if candidates is not None else _middles(sorted(curve.points), tile)
    open_ = [size for size in options if size not in curve.points]
    widths = {size: curve.estimate(size, noise=0.0).spread for size in open_}
    worst = max(open_, key=lambda size: (widths[size], -size), default=None)
    return worst if worst is not None and widths[worst] > tolerance else None


def _middles(sizes: Sequence[int], tile: int) -> tuple[int, ...]:
    """The middles of all gaps, on a tile edge where there is one inside the gap."""
    found: list[int] = []
    for low, high in pairwise(sizes):
        edge = round((low + high) / 2 / tile) * tile
        middle = edge if low < edge < high else (low + high) // 2
        found += [middle] if low < middle < high else []
    return tuple(found)
