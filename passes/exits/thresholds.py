"""Find thresholds on search samples: which exits to keep, and from what confidence to leave at each.

A sample that leaves at exit k costs the segments of the model up to there and the heads of the exits
kept so far. Two families of thresholds are tried, each a path from safe to aggressive (see
``threshold_paths``): one common threshold, and one per exit. The more numbers a family has, the
better it fits the noise of the search samples, so the family is chosen by cross-validation, which
also ends the path where the loss on samples left out is far from that on all. Settings are certified
from the safest on: one that proves too bold costs nothing but the ones behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from adapass.errors import UsageError
from adapass.passes.exits.threshold_paths import (
    Costs,
    Doubles,
    Floats,
    Observed,
    Setting,
    evaluate_observed,
    families,
)

FOLDS = 4
MAX_POINTS = 24
LATITUDE = 2.0
"""Loss on samples left out, over the loss allowed, at which a path ends; few samples tell no more."""
CLEARLY_CHEAPER = 0.9
"""A family of more numbers must cost less than this share of the common threshold's cost."""

__all__ = ["Costs", "Setting", "evaluate", "select"]


def select(
    confidence: Floats, losses: Doubles, costs: Costs, max_loss: float, known: Sequence[Floats] = ()
) -> tuple[Setting, ...]:
    """Settings from the safest to the most aggressive: cost falls, and mean loss stays within ``max_loss``.

    ``confidence`` is [N, E], ``losses`` [N, E + 1] (what leaving at each exit, or never, loses). Empty
    when no setting is both within the loss and cheaper than the model without exits. ``known`` are
    thresholds [E] chosen without these numbers: nothing in them fits their noise, so what they lose here
    is taken as it is.

    Raises:
        UsageError: the shapes do not fit each other, or a number is not finite.

    """
    _check(confidence, losses, costs)
    for thresholds in known:
        _check_thresholds(thresholds, confidence.shape[1])
    if confidence.shape[1] == 0 or len(confidence) < FOLDS:
        return ()
    data = Observed.of(confidence, losses)
    family, last = _best_family(data, costs, max_loss)
    path = families(costs)[family](data, costs, max_loss)[: last + 1]
    settings = [evaluate_observed(data, costs, thresholds) for thresholds in path]
    if family and settings:
        settings = [*_safer(data, costs, max_loss, settings[0]), *settings]
    settings += [evaluate_observed(data, costs, thresholds) for thresholds in known]
    settings.sort(key=lambda setting: -setting.expected_seconds)
    return _thinned(settings, costs, max_loss)


def evaluate(confidence: Floats, losses: Doubles, costs: Costs, thresholds: Floats) -> Setting:
    """What one vector of thresholds does on these samples."""
    _check(confidence, losses, costs)
    return evaluate_observed(Observed.of(confidence, losses), costs, thresholds)


def _check(confidence: Floats, losses: Doubles, costs: Costs) -> None:
    samples, exits = confidence.shape
    if losses.shape != (samples, exits + 1) or len(costs.segments) != exits + 1 or len(costs.heads) != exits:
        raise UsageError(
            f"confidence {list(confidence.shape)} needs losses [{samples}, {exits + 1}], {exits + 1} segments"
            f" and {exits} heads; found {list(losses.shape)}, {len(costs.segments)} and {len(costs.heads)}"
        )
    finite = [np.isfinite(array).all() for array in (confidence, losses, costs.segments, costs.heads)]
    if not all(finite):
        raise UsageError("confidences, losses and costs of exits must be finite numbers")


def _check_thresholds(thresholds: Floats, exits: int) -> None:
    if thresholds.shape != (exits,):
        found = list(thresholds.shape)
        raise UsageError(f"known thresholds must be [{exits}], one for each exit; found {found}")


def _best_family(data: Observed, costs: Costs, max_loss: float) -> tuple[int, int]:
    """The family that is cheapest on samples it was not chosen on, and the last step that may do there.

    The first family, which has one number only, is kept unless another one is clearly cheaper.
    """
    fold = np.arange(len(data.losses)) % FOLDS
    curves: list[list[list[Setting]]] = [[] for _ in families(costs)]
    for held in range(FOLDS):
        rest, test = data.rows(np.flatnonzero(fold != held)), data.rows(np.flatnonzero(fold == held))
        for index, family in enumerate(families(costs)):
            path = family(rest, costs, max_loss)
            curves[index].append([evaluate_observed(test, costs, thresholds) for thresholds in path])
    found = [_last_within(curve, costs, max_loss) for curve in curves]
    best = min(range(len(found)), key=lambda index: found[index][1])
    best = best if found[best][1] < CLEARLY_CHEAPER * found[0][1] else 0
    return best, _last_within(curves[best], costs, LATITUDE * max_loss)[0]


def _safer(data: Observed, costs: Costs, max_loss: float, first: Setting) -> list[Setting]:
    """Common levels that cost more than ``first``: steps to fall back on, should it prove too bold."""
    common = [evaluate_observed(data, costs, step) for step in families(costs)[0](data, costs, max_loss)]
    return [setting for setting in common if setting.expected_seconds > first.expected_seconds]


def _last_within(curves: Sequence[Sequence[Setting]], costs: Costs, max_loss: float) -> tuple[int, float]:
    """The last step whose mean loss over the folds is within, and its cost; -1 when there is none.

    Leaving earlier cannot make things better on the whole, so the losses are made to rise along the
    path first: a dip in the middle is noise.
    """
    steps = list(zip(*curves, strict=False))
    losses = np.asarray([[setting.loss for setting in step] for step in steps]).reshape(len(steps), -1)
    rising = isotonic_regression(losses.mean(axis=1)).x if steps else np.zeros(0)
    within = np.flatnonzero(rising <= max_loss)
    if not len(within):
        return -1, costs.whole
    last = int(within[-1])
    return last, float(np.mean([setting.expected_seconds for setting in steps[last]]))


def _thinned(settings: Sequence[Setting], costs: Costs, max_loss: float) -> tuple[Setting, ...]:
    """Settings within the loss whose cost falls step by step; at most ``MAX_POINTS``, spread evenly."""
    falling: list[Setting] = []
    for setting in settings:
        below = falling[-1].expected_seconds if falling else costs.whole
        if setting.kept and setting.loss <= max_loss and setting.expected_seconds < below:
            falling.append(setting)
    if len(falling) <= MAX_POINTS:
        return tuple(falling)
    wanted = np.linspace(falling[0].expected_seconds, falling[-1].expected_seconds, MAX_POINTS)
    seconds = np.asarray([setting.expected_seconds for setting in falling])
    chosen = {int(np.abs(seconds - target).argmin()) for target in wanted}
    return tuple(falling[index] for index in sorted(chosen))
