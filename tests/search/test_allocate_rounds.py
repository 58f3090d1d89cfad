"""Measured rounds: never worse than the best start, and better where layers meet; refusals named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate_layers import LayerOption
from adapass.search.allocate_rounds import Change, Plan, filled, measured_rounds

SHARES = np.linspace(0.0, 0.95, 20)


class Coupled:
    """Layers of 1000 weights whose squared errors meet: quadratic in the vector of single damages."""

    def __init__(self, layers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.names = [f"layer {i}" for i in range(layers)]
        self.powers = rng.uniform(1.0, 4.0, layers)
        mixed = rng.normal(size=(layers, layers))
        self.meets = mixed @ mixed.T / layers + 3.0 * np.diag(rng.uniform(0.1, 1.0, layers))
        self.measured = 0

    def whole(self, plan: Plan) -> float:
        self.measured += 1
        errors = SHARES[[plan[name] for name in self.names]] ** self.powers
        return float(errors @ self.meets @ errors)

    def beside(self, plan: Plan, changes: Sequence[Change]) -> Mapping[Change, float]:
        base = self.whole(plan)
        return {(name, place): self.whole({**plan, name: place}) - base for name, place in changes}

    @property
    def layers(self) -> dict[str, list[LayerOption]]:
        none = dict.fromkeys(self.names, 0)
        return {
            name: [LayerOption(int(1000 * s), self.whole({**none, name: i})) for i, s in enumerate(SHARES)]
            for name in self.names
        }


def _gone(layers: Mapping[str, Sequence[LayerOption]], plan: Plan) -> int:
    return sum(layers[name][place].removed for name, place in plan.items())


@pytest.mark.parametrize("seed", range(5))
def test_rounds_get_ever_better_and_keep_the_total(seed: int) -> None:
    problem = Coupled(12, seed)
    layers = problem.layers
    removed = sum(options[10].removed for options in layers.values())
    uniform = dict.fromkeys(layers, 10)

    found = measured_rounds(layers, removed, [uniform], whole=problem.whole, beside=problem.beside, rounds=6)

    assert _gone(layers, found.plan) >= removed
    assert found.history[0] == problem.whole(uniform)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.damage == problem.whole(found.plan) == found.history[-1]
    assert found.damage < 0.9 * problem.whole(uniform)
    assert found == measured_rounds(
        layers, removed, [uniform], whole=problem.whole, beside=problem.beside, rounds=6
    )


def test_the_best_start_is_kept_where_nothing_is_better() -> None:
    problem = Coupled(4)
    layers = problem.layers
    starts = [dict.fromkeys(layers, 8), dict.fromkeys(layers, 7)]

    found = measured_rounds(
        layers, _gone(layers, starts[1]), starts, whole=problem.whole, beside=problem.beside, rounds=0
    )

    assert found.plan == starts[1]
    assert found.history == (problem.whole(starts[1]),)


def test_no_plan_is_measured_twice() -> None:
    problem = Coupled(4)
    layers = problem.layers
    start = dict.fromkeys(layers, 8)
    problem.measured = 0

    measured_rounds(
        layers,
        _gone(layers, start),
        [start, dict(start)],
        whole=problem.whole,
        beside=lambda _plan, changes: dict.fromkeys(changes, 0.0),
        rounds=0,
    )

    assert problem.measured == 1


def test_a_start_that_removes_too_little_is_filled() -> None:
    layers = Coupled(4).layers
    plan = filled(layers, dict.fromkeys(layers, 3), 4 * 201)

    assert _gone(layers, plan) >= 4 * 201
    assert max(plan.values()) - min(plan.values()) <= 1


def test_refusals() -> None:
    problem = Coupled(3)
    layers = problem.layers
    with pytest.raises(UsageError, match="no plan to start from"):
        measured_rounds(layers, 10, [], whole=problem.whole, beside=problem.beside)
    with pytest.raises(UsageError, match="option 20 for layer 'layer 1', which has 20"):
        measured_rounds(
            layers,
            10,
            [{**dict.fromkeys(layers, 0), "layer 1": 20}],
            whole=problem.whole,
            beside=problem.beside,
        )
    with pytest.raises(BudgetError, match="cannot give as many"):
        measured_rounds(layers, 4000, [dict.fromkeys(layers, 0)], whole=problem.whole, beside=problem.beside)


def test_what_is_measured_beside_the_plan_decides() -> None:
    """Alone both layers look the same; beside the plan one costs a hundred times the other."""
    layers = {name: [LayerOption(int(1000 * s), float(s)) for s in SHARES] for name in ("dear", "cheap")}

    def whole(plan: Plan) -> float:
        return float(100.0 * SHARES[plan["dear"]] + SHARES[plan["cheap"]])

    def beside(plan: Plan, changes: Sequence[Change]) -> Mapping[Change, float]:
        return {(name, place): whole({**plan, name: place}) - whole(plan) for name, place in changes}

    start = dict.fromkeys(layers, 8)
    found = measured_rounds(layers, _gone(layers, start), [start], whole=whole, beside=beside, rounds=1)

    assert found.plan == {"dear": 4, "cheap": 12}
