"""Find thresholds on search samples: which exits to keep, and from what confidence to leave at each.

A sample that leaves at exit k costs the segments of the model up to there and the heads of the exits
kept so far. For a price of one unit of loss (in seconds) the best thresholds are found by exact
coordinate descent: with all others fixed, the samples that reach exit k are sorted by confidence and
the best place to cut is the minimum of a running sum; dropping the exit (its head then costs
nothing) is one of the choices. Lowering the price step by step gives a path from safe to
aggressive. A second path has one threshold for all kept exits; fewer numbers fit noise less, so the
two are compared by cross-validation on the search samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.errors import UsageError

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ALWAYS = np.float32(-1.0)
"""A threshold below every confidence."""
PRICES = 28
"""Points on the path of prices."""
SHARED = 64
"""Common thresholds that are tried."""
SWEEPS = 6
FOLDS = 4
MAX_POINTS = 24
TINY_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean seconds of the pieces of a model with E exits."""

    segments: Doubles
    """[E + 1]: up to the first exit, ..., after the last one."""
    heads: Doubles
    """[E]: saved where an exit is dropped."""
    removable: bool = True
    """False where later exits need the heads of earlier ones (patience): dropping one saves nothing."""

    @property
    def whole(self) -> float:
        """The model without exits."""
        return float(self.segments.sum())


@dataclass(frozen=True, slots=True)
class Setting:
    """One vector of thresholds and what it does on the search samples."""

    thresholds: Floats
    """[E]; ``inf`` for an exit that is dropped."""
    expected_seconds: float
    loss: float
    """Mean loss."""
    shares: Doubles
    """[E + 1]: share of the samples that leave at each exit; the last entry stays to the end."""

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(int(index) for index in np.flatnonzero(np.isfinite(self.thresholds)))


@dataclass(frozen=True, slots=True)
class _Data:
    confidence: Floats
    losses: Doubles
    order: npt.NDArray[np.intp]
    """[N, E]: samples by falling confidence, per exit."""

    @classmethod
    def of(cls, confidence: Floats, losses: Doubles) -> _Data:
        return cls(confidence, losses, np.argsort(-confidence, axis=0, kind="stable"))

    def rows(self, chosen: npt.NDArray[np.intp]) -> _Data:
        return _Data.of(self.confidence[chosen], self.losses[chosen])


def select(confidence: Floats, losses: Doubles, costs: Costs, max_loss: float) -> tuple[Setting, ...]:
    """Settings from the safest to the most aggressive: cost falls, loss rises and stays within ``max_loss``.

    ``confidence`` is [N, E], ``losses`` [N, E + 1] (what leaving at each exit, or never, loses). Empty
    when no setting is both within the loss and cheaper than the model without exits.

    Raises:
        UsageError: the shapes do not fit each other, or a number is not finite.

    """
    _check(confidence, losses, costs)
    data = _Data.of(confidence, losses)
    if confidence.shape[1] == 0 or len(confidence) == 0:
        return ()
    own, shared = _paths(data, costs, max_loss)
    path = shared if _shared_generalises(data, costs, max_loss) else own
    return _front(_evaluated(path, data, costs), costs, max_loss)


def evaluate(confidence: Floats, losses: Doubles, costs: Costs, thresholds: Floats) -> Setting:
    """What one vector of thresholds does on these samples."""
    return _evaluate(_Data.of(confidence, losses), costs, thresholds)


def _check(confidence: Floats, losses: Doubles, costs: Costs) -> None:
    samples, exits = confidence.shape
    if losses.shape != (samples, exits + 1) or len(costs.segments) != exits + 1 or len(costs.heads) != exits:
        raise UsageError(
            f"confidence {list(confidence.shape)} needs losses [{samples}, {exits + 1}], {exits + 1} segments and "
            f"{exits} heads; found {list(losses.shape)}, {len(costs.segments)} and {len(costs.heads)}"
        )
    if not (
        np.isfinite(losses).all() and np.isfinite(costs.segments).all() and np.isfinite(costs.heads).all()
    ):
        raise UsageError("losses and costs of exits must be finite numbers")


def _evaluate(data: _Data, costs: Costs, thresholds: Floats) -> Setting:
    stops = data.confidence >= thresholds
    count, exits = stops.shape
    leaves = np.where(stops.any(axis=1), stops.argmax(axis=1), exits)
    shares = np.bincount(leaves, minlength=exits + 1) / count
    loss = float(data.losses[np.arange(count), leaves].mean())
    return Setting(thresholds, float(shares @ _leaving_costs(costs, np.isfinite(thresholds))), loss, shares)


def _leaving_costs(costs: Costs, kept: Mask) -> Doubles:
    """[E + 1]: what a sample costs that leaves at each exit."""
    paid = costs.heads * (kept if costs.removable else _up_to_last(kept))
    return np.cumsum(costs.segments) + np.append(np.cumsum(paid), paid.sum())


def _up_to_last(kept: Mask) -> Mask:
    return np.logical_or.accumulate(kept[::-1])[::-1]


def _paths(data: _Data, costs: Costs, max_loss: float) -> tuple[list[Floats], list[Floats]]:
    """Thresholds by falling price: one per exit, and one for all exits of the best of those."""
    own = list(_price_path(data, costs))
    within = [t for t in own if (s := _evaluate(data, costs, t)).loss <= max_loss and s.kept]
    kept = np.isfinite(within[-1] if within else own[-1])
    return own, list(_shared_path(data, kept))


def _price_path(data: _Data, costs: Costs) -> Iterator[Floats]:
    thresholds = np.full(data.confidence.shape[1], np.inf, np.float32)
    for price in costs.whole * np.geomspace(300.0, 0.5, PRICES):
        thresholds = _descend(data, costs, float(price), thresholds)
        yield thresholds


def _shared_path(data: _Data, kept: Mask) -> Iterator[Floats]:
    if not kept.any():
        return
    levels = np.quantile(data.confidence[:, kept], np.linspace(1.0, 0.02, SHARED), method="lower")
    for level in levels:
        yield np.where(kept, level, np.inf).astype(np.float32)


def _descend(data: _Data, costs: Costs, price: float, start: Floats) -> Floats:
    """Coordinate descent on mean seconds + price * mean loss, from ``start`` and from a common level."""
    found = [_sweeps(data, costs, price, start)]
    for quantile in (0.5, 0.9):
        level = np.quantile(data.confidence, quantile).astype(np.float32)
        found.append(_sweeps(data, costs, price, np.full_like(start, level)))
    settings = [_evaluate(data, costs, thresholds) for thresholds in found]
    best = int(np.argmin([s.expected_seconds + price * s.loss for s in settings]))
    return found[best]


def _sweeps(data: _Data, costs: Costs, price: float, start: Floats) -> Floats:
    thresholds = start.copy()
    for _ in range(SWEEPS):
        before = thresholds.copy()
        _sweep(data, costs, price, thresholds)
        if np.array_equal(before, thresholds):
            break
    return thresholds


def _sweep(data: _Data, costs: Costs, price: float, thresholds: Floats) -> None:
    """One pass from the last exit to the first, in place."""
    exits = len(thresholds)
    stops = data.confidence >= thresholds
    reached = np.ones((len(stops), exits), np.bool_)
    reached[:, 1:] = ~np.logical_or.accumulate(stops, axis=1)[:, :-1]
    ahead = costs.segments[exits] + price * data.losses[:, exits]
    for index in reversed(range(exits)):
        leaving = price * data.losses[:, index]
        head = float(costs.heads[index])
        needed = not costs.removable and bool(np.isfinite(thresholds[index + 1 :]).any())
        thresholds[index] = _best_cut(
            data,
            index,
            np.where(reached[:, index], leaving - ahead, 0.0),
            0.0 if needed else head * int(reached[:, index].sum()),
        )
        kept = bool(np.isfinite(thresholds[index]))
        ahead = np.where(data.confidence[:, index] >= thresholds[index], leaving, ahead)
        ahead = ahead + costs.segments[index] + (head if kept or needed else 0.0)


def _best_cut(data: _Data, index: int, gain: Doubles, fixed: float) -> np.float32:
    """The threshold that minimises the sum of ``gain`` over the samples above it; ``inf`` unless that pays ``fixed``."""
    order = data.order[:, index]
    confidence = data.confidence[order, index]
    sums = np.cumsum(gain[order])
    last_of_level = np.append(confidence[:-1] != confidence[1:], True)
    sums[~last_of_level] = np.inf
    best = int(np.argmin(sums))
    if sums[best] + fixed >= -TINY_GAIN:
        return np.float32(np.inf)
    if best == len(order) - 1:
        return ALWAYS
    middle = np.float32((np.float64(confidence[best]) + np.float64(confidence[best + 1])) / 2)
    return middle if middle > confidence[best + 1] else confidence[best]


def _shared_generalises(data: _Data, costs: Costs, max_loss: float) -> bool:
    """Whether one shared threshold does better than one per exit on samples it was not chosen on."""
    count = len(data.confidence)
    if count < 2 * FOLDS:
        return True
    fold = np.arange(count) % FOLDS
    curves: list[list[list[Setting]]] = []
    for held in range(FOLDS):
        rest, test = data.rows(np.flatnonzero(fold != held)), data.rows(np.flatnonzero(fold == held))
        curves.append([_evaluated(path, test, costs) for path in _paths(rest, costs, max_loss)])
    own, shared = (_cheapest_within([curve[way] for curve in curves], max_loss, costs) for way in (0, 1))
    return shared <= own


def _cheapest_within(curves: Sequence[Sequence[Setting]], max_loss: float, costs: Costs) -> float:
    """Lowest mean cost over the folds at a step of the path whose mean loss over the folds is within."""
    best = costs.whole
    for step in zip(*curves, strict=False):
        if np.mean([setting.loss for setting in step]) <= max_loss:
            best = min(best, float(np.mean([setting.expected_seconds for setting in step])))
    return best


def _evaluated(path: Sequence[Floats], data: _Data, costs: Costs) -> list[Setting]:
    return [_evaluate(data, costs, thresholds) for thresholds in path]


def _front(settings: Sequence[Setting], costs: Costs, max_loss: float) -> tuple[Setting, ...]:
    """The settings that no other beats in both cost and loss, safest first, thinned to ``MAX_POINTS``."""
    usable = [s for s in settings if s.kept and s.loss <= max_loss and s.expected_seconds < costs.whole]
    front: list[Setting] = []
    for setting in sorted(usable, key=lambda s: (s.expected_seconds, s.loss)):
        if not front or setting.loss < front[-1].loss:
            front.append(setting)
    front.reverse()
    if len(front) <= MAX_POINTS:
        return tuple(front)
    chosen = np.unique(np.linspace(0, len(front) - 1, MAX_POINTS).round().astype(int))
    return tuple(front[index] for index in chosen)
