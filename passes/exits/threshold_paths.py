"""Paths of threshold vectors, from safe to aggressive.

Common threshold. One level for all kept exits. Which exits to keep is found by backward elimination:
drop the exit whose head costs more than leaving there saves, as long as that pays. (Levels that rise
or fall with depth were tried: no better on fresh samples, once every head has its temperature.)

One per exit. For a price of one unit of loss (in seconds) the best thresholds are found by coordinate
descent: with all others fixed, the samples that reach exit k are sorted by confidence, and the best
place to cut is the minimum of a running sum; dropping the exit is one of the choices. The path
lowers the price step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ALWAYS = np.float32(-1.0)
"""A threshold below every confidence."""
LEVELS = 64
"""Common thresholds on a path."""
PRICES = 16
"""Prices on the path of one threshold per exit, in units of the whole model's seconds."""
HIGHEST_PRICE, LOWEST_PRICE = 100.0, 0.5
SWEEPS = 4
TINY_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean seconds of the pieces of a model with E exits."""

    segments: Doubles
    """[E + 1]: up to the first exit, ..., after the last one."""
    heads: Doubles
    """[E]: saved where an exit is dropped."""
    removable: bool = True
    """False where later exits need the heads of earlier ones (patience, quantile)."""
    counts: bool = False
    """Whether confidences are whole numbers (patience)."""

    @property
    def whole(self) -> float:
        """The model without exits."""
        return float(self.segments.sum())


@dataclass(frozen=True, slots=True)
class Setting:
    """One vector of thresholds and what it does on some samples."""

    thresholds: Floats
    """[E]; ``inf`` for an exit that is dropped."""
    expected_seconds: float
    loss: float
    """Mean loss."""
    shares: Doubles
    """[E + 1]: share of the samples that leave at each exit; the last entry stays to the end."""
    changed: float = 0.0
    """Mean square of the losses."""

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(int(index) for index in np.flatnonzero(np.isfinite(self.thresholds)))


@dataclass(frozen=True, slots=True)
class Observed:
    """What every exit did on every sample."""

    confidence: Floats
    """[N, E]"""
    losses: Doubles
    """[N, E + 1]"""
    order: npt.NDArray[np.intp]
    """[N, E]: samples by falling confidence, per exit."""

    @classmethod
    def of(cls, confidence: Floats, losses: Doubles) -> Observed:
        return cls(confidence, losses, np.argsort(-confidence, axis=0, kind="stable"))

    def rows(self, chosen: npt.NDArray[np.intp]) -> Observed:
        return Observed.of(self.confidence[chosen], self.losses[chosen])


Path = Callable[[Observed, Costs, float], Sequence[Floats]]
"""(samples, costs, most loss) -> threshold vectors; step i means the same on other samples."""


def families(costs: Costs) -> tuple[Path, ...]:
    """The families worth trying, the one with the fewest numbers first. What is carried has one threshold."""
    return (common_path, per_exit_path) if costs.removable else (common_path,)


def evaluate_observed(data: Observed, costs: Costs, thresholds: Floats) -> Setting:
    """Mean cost and loss of one vector of thresholds."""
    stops = data.confidence >= thresholds
    count, exits = stops.shape
    leaves = stops.argmax(axis=1).astype(np.intp)
    leaves[~stops.any(axis=1)] = exits
    shares = np.asarray(np.bincount(leaves, minlength=exits + 1) / count, np.float64)
    losses = data.losses[np.arange(count), leaves]
    seconds = float(shares @ _leaving_costs(costs, np.isfinite(thresholds)))
    return Setting(thresholds, seconds, float(losses.mean()), shares, float(np.mean(losses**2)))


def _leaving_costs(costs: Costs, kept: Mask) -> Doubles:
    """[E + 1]: what a sample costs that leaves at each exit."""
    present = kept if costs.removable else np.logical_or.accumulate(kept[::-1])[::-1]
    paid = np.cumsum(costs.heads * present)
    return np.asarray(np.cumsum(costs.segments) + np.append(paid, paid[-1]), np.float64)


def common_path(data: Observed, costs: Costs, max_loss: float) -> list[Floats]:
    """One level for all kept exits, falling; whole numbers for patience."""
    exits = data.confidence.shape[1]
    if costs.counts:
        return [np.full(exits, level, np.float32) for level in range(exits, 0, -1)]
    levels = np.quantile(data.confidence, np.linspace(1.0, 0.0, LEVELS), method="lower")
    path = [np.full(exits, level, np.float32) for level in levels]
    kept = _worth_keeping(data, costs, path, max_loss)
    return [np.where(kept, thresholds, np.inf).astype(np.float32) for thresholds in path]


def _worth_keeping(data: Observed, costs: Costs, path: Sequence[Floats], max_loss: float) -> Mask:
    """Backward elimination at the boldest thresholds within ``max_loss``, at the price of loss there."""
    settings = [evaluate_observed(data, costs, thresholds) for thresholds in path]
    everything = _cheapest(settings, max_loss)
    price = _price(_cheapest(settings, 0.5 * max_loss), everything, len(data.losses))
    thresholds = everything.thresholds
    best = everything.expected_seconds + price * everything.loss
    while np.isfinite(thresholds).sum() > 1:
        trials = [
            (s.expected_seconds + price * s.loss, int(index))
            for index in np.flatnonzero(np.isfinite(thresholds))
            for s in (evaluate_observed(data, costs, _without(thresholds, int(index))),)
        ]
        value, index = min(trials)
        if value >= best:
            break
        best, thresholds = value, _without(thresholds, index)
    kept = np.isfinite(thresholds)
    fewer = [evaluate_observed(data, costs, np.where(kept, t, np.inf).astype(np.float32)) for t in path]
    helps = _cheapest(fewer, max_loss).expected_seconds < everything.expected_seconds
    return np.asarray(kept if helps else np.isfinite(everything.thresholds), np.bool_)


def _cheapest(settings: Sequence[Setting], max_loss: float) -> Setting:
    """The cheapest setting within the loss; the first (safest) one when none is."""
    within = [setting for setting in settings if setting.loss <= max_loss] or settings[:1]
    return min(within, key=lambda setting: setting.expected_seconds)


def _price(safer: Setting, bolder: Setting, count: int) -> float:
    """Seconds saved per unit of loss between two settings of a path."""
    saved = max(safer.expected_seconds - bolder.expected_seconds, 0.0)
    return saved / max(bolder.loss - safer.loss, 1.0 / count)


def _without(thresholds: Floats, index: int) -> Floats:
    fewer = thresholds.copy()
    fewer[index] = np.inf
    return fewer


def per_exit_path(data: Observed, costs: Costs, max_loss: float) -> list[Floats]:
    """One threshold per exit, by falling price of loss."""
    del max_loss
    level = np.quantile(data.confidence, 0.5).astype(np.float32)
    thresholds = np.full(data.confidence.shape[1], level, np.float32)
    path: list[Floats] = []
    for price in costs.whole * np.geomspace(HIGHEST_PRICE, LOWEST_PRICE, PRICES):
        for _ in range(SWEEPS):
            before = thresholds.copy()
            _sweep(data, costs, float(price), thresholds)
            if np.array_equal(before, thresholds):
                break
        path.append(thresholds.copy())
    return path


def _sweep(data: Observed, costs: Costs, price: float, thresholds: Floats) -> None:
    """One pass from the last exit to the first, in place."""
    exits = len(thresholds)
    stops = data.confidence >= thresholds
    reached = np.ones((len(stops), exits), np.bool_)
    reached[:, 1:] = ~np.logical_or.accumulate(stops, axis=1)[:, :-1]
    ahead = costs.segments[exits] + price * data.losses[:, exits]
    for index in reversed(range(exits)):
        leaving = price * data.losses[:, index]
        gain = np.where(reached[:, index], leaving - ahead, 0.0)
        thresholds[index] = _best_cut(
            data, index, gain, float(costs.heads[index]) * int(reached[:, index].sum())
        )
        head = float(costs.heads[index]) if np.isfinite(thresholds[index]) else 0.0
        ahead = np.where(data.confidence[:, index] >= thresholds[index], leaving, ahead)
        ahead = ahead + costs.segments[index] + head


def _best_cut(data: Observed, index: int, gain: Doubles, fixed: float) -> np.float32:
    """The threshold with the lowest sum of ``gain`` above it; ``inf`` unless that is worth ``fixed``."""
    order = data.order[:, index]
    confidence = data.confidence[order, index]
    sums = np.cumsum(gain[order])
    sums[:-1][confidence[:-1] == confidence[1:]] = np.inf
    best = int(np.argmin(sums))
    if sums[best] + fixed >= -TINY_GAIN:
        return np.float32(np.inf)
    if best == len(order) - 1:
        return ALWAYS
    middle = np.float32((np.float64(confidence[best]) + np.float64(confidence[best + 1])) / 2)
    return np.float32(middle if middle > confidence[best + 1] else confidence[best])
