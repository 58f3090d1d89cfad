"""The dynamic programme over layers: exact against all combinations, rounding stated, refusals named."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate import Option, Problem, minimize_damage
from adapass.search.allocate_layers import LayerOption, least_damage


def _random(seed: int, layers: int = 4, options: int = 4) -> dict[str, tuple[LayerOption, ...]]:
    rng = np.random.default_rng(seed)
    return {
        f"layer {i}": (
            LayerOption(0, 0.0),
            *(
                LayerOption(int(rng.integers(1, 60)), float(rng.uniform(0.0, 1.0)))
                for _ in range(options - 1)
            ),
        )
        for i in range(layers)
    }


def _by_trying_all(layers: dict[str, tuple[LayerOption, ...]], removed: int) -> float:
    sums = [
        sum(option.damage for option in chosen)
        for chosen in product(*layers.values())
        if sum(option.removed for option in chosen) >= removed
    ]
    return min(sums)


@pytest.mark.parametrize("seed", range(25))
def test_the_best_of_all_combinations(seed: int) -> None:
    layers = _random(seed)
    most = sum(max(option.removed for option in options) for options in layers.values())
    removed = int(np.random.default_rng(seed).integers(0, most + 1))

    found = least_damage(layers, removed)

    assert list(found) == list(layers)
    assert all(found[name] in options for name, options in layers.items())
    assert sum(option.removed for option in found.values()) >= removed
    assert sum(o.damage for o in found.values()) == pytest.approx(_by_trying_all(layers, removed), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_shared_allocator_agrees(seed: int) -> None:
    layers = _random(seed, layers=6)
    removed = sum(max(option.removed for option in options) for options in layers.values()) // 2
    problem = Problem(
        tuple(
            Option(f"{name}={index}", name, float(option.removed), option.damage)
            for name, options in layers.items()
            for index, option in enumerate(options)
        )
    )

    found = least_damage(layers, removed)

    assert sum(option.damage for option in found.values()) == pytest.approx(
        minimize_damage(problem, min_saving=float(removed)).damage, abs=1e-9
    )


def test_large_totals_are_rounded_down_and_still_reached() -> None:
    rng = np.random.default_rng(3)
    layers = {
        f"layer {i}": tuple(
            LayerOption(int(size * share), float(share**2 * weight)) for share in np.linspace(0.0, 0.9, 10)
        )
        for i, (size, weight) in enumerate(
            zip(rng.integers(10**5, 10**6, 20), rng.uniform(0.1, 9.0, 20), strict=True)
        )
    }
    removed = sum(options[5].removed for options in layers.values())

    coarse, fine = (least_damage(layers, removed, steps=steps) for steps in (300, 4096))

    for found in (coarse, fine):
        assert sum(option.removed for option in found.values()) >= removed
    sums = [sum(option.damage for option in found.values()) for found in (fine, coarse)]
    even = sum(options[5].damage for options in layers.values())
    assert sums[0] <= sums[1] < even


def test_nothing_to_remove_takes_what_damages_least() -> None:
    found = least_damage({"a": (LayerOption(5, 0.5), LayerOption(0, 0.0), LayerOption(3, -0.1))}, 0)

    assert found == {"a": LayerOption(3, -0.1)}


def test_too_much_is_refused_with_what_there_is() -> None:
    with pytest.raises(BudgetError, match="11 weights are to go, and layers give 10 at most"):
        least_damage({"a": (LayerOption(4, 0.1),), "b": (LayerOption(6, 0.2),)}, 11)


@pytest.mark.parametrize(
    ("layers", "removed", "steps", "message"),
    [
        ({"a": ()}, 1, 8, "layer 'a' has no option"),
        ({"a": (LayerOption(-1, 0.0),)}, 1, 8, "removes -1 weights"),
        ({"a": (LayerOption(1, float("nan")),)}, 1, 8, "damage of nan"),
        ({"a": (LayerOption(1, 0.0),)}, -1, 8, "removed=-1"),
        ({"a": (LayerOption(1, 0.0),)}, 1, 0, "steps=0"),
    ],
)
def test_senseless_numbers_are_refused(
    layers: dict[str, tuple[LayerOption, ...]], removed: int, steps: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        least_damage(layers, removed, steps=steps)
