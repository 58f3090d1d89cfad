"""Shares of all layers jointly, under one total: the dynamic programme of layer-adaptive pruning.

Output distortion adds up over layers, so what goes from each is a knapsack with one option a layer:

    best[layer, gone] = min over options of  best[layer - 1, gone - option] + distortion(layer, option)

(Xu et al. 2023, Efficient joint optimization of layer-adaptive weight pruning, arXiv:2308.10438). It knows
one resource and no ties between choices; ``adapass.search.allocate`` knows both, and is compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.errors import BudgetError, UsageError

Doubles = npt.NDArray[np.float64]
STEPS = 4096
"""Into so many equal parts the total is cut; what a layer gives is rounded down to them."""


@dataclass(frozen=True, slots=True)
class LayerOption:
    """Something that can be done to a layer."""

    removed: int
    """Weights that go."""
    damage: float


def least_damage(
    layers: Mapping[str, Sequence[LayerOption]], removed: int, *, steps: int = STEPS
) -> dict[str, LayerOption]:
    """One option a layer, ``removed`` weights gone at least, the sum of damages least.

    Exact where ``removed`` is at most ``steps``, and then options with equal sums go to the first listed;
    above, at most a part in ``steps`` of each layer's weights is given away.

    Raises:
        UsageError: a layer has no option, or a number is negative.
        BudgetError: not so many weights can go.

    """
    _check(layers, removed, steps)
    unit = max(removed / steps, 1.0)
    target = int(np.ceil(removed / unit))
    best = np.full(target + 1, np.inf)
    best[0] = 0.0
    taken: list[npt.NDArray[np.int64]] = []
    for options in layers.values():
        best, choice = _with_layer(best, options, unit)
        taken.append(choice)
    if not np.isfinite(best[target]):
        most = sum(max(option.removed for option in options) for options in layers.values())
        raise BudgetError(
            f"{removed} weights are to go, and layers give {most} at most (each rounded down to {unit:.4g}); "
            "offer larger shares"
        )
    chosen: dict[str, LayerOption] = {}
    place = target
    for (name, options), choice in reversed(list(zip(layers.items(), taken, strict=True))):
        option = options[int(choice[place])]
        chosen[name] = option
        place = max(place - int(option.removed // unit), 0)
    return {name: chosen[name] for name in layers}


def _with_layer(
    best: Doubles, options: Sequence[LayerOption], unit: float
) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """The least damage of at least so many units, one more layer counted; and which option it takes."""
    found = np.full(len(best), np.inf)
    choice = np.zeros(len(best), np.int64)
    places = np.arange(len(best))
    for index, option in enumerate(options):
        gives = int(option.removed // unit)
        before = best[np.maximum(places - gives, 0)] + option.damage
        better = before < found
        found[better], choice[better] = before[better], index
    return found, choice


def _check(layers: Mapping[str, Sequence[LayerOption]], removed: int, steps: int) -> None:
    if removed < 0 or steps < 1:
        raise UsageError(
            f"removed must be at least 0 and steps at least 1, found removed={removed}, steps={steps}"
        )
    for name, options in layers.items():
        if not options:
            raise UsageError(f"layer '{name}' has no option; give at least one that removes nothing")
        for option in options:
            if option.removed < 0 or not np.isfinite(option.damage):
                raise UsageError(
                    f"an option of layer '{name}' removes {option.removed} weights at a damage of "
                    f"{option.damage}; expected a count and a finite number"
                )
