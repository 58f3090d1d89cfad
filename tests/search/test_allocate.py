"""The allocator against enumeration, in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from adapass.search import allocate_highs, allocate_solve
from adapass.search.allocate import (
    Allocation,
    InfeasibleError,
    Problem,
    maximize_saving,
    minimize_damage,
)
from tests.search.enumeration import TICK, Point, enumerate_points, random_problem

PROBLEMS = 200


def random_bounds(seed: int, points: Sequence[Point]) -> tuple[float, float, dict[str, float]]:
    """A saving, a damage and limits; on some seeds exactly what some choice reaches, on some out of reach."""
    rng = np.random.default_rng((seed, 1))
    one, other, third = (points[int(rng.integers(len(points)))] for _ in range(3))
    top, bottom = max(p.saving for p in points), min(p.damage for p in points)
    saving = (one.saving, 0.6 * top, 1.1 * top + TICK, top)[rng.integers(4)]
    damage = (one.damage, other.damage / 2, bottom - 1e-7, bottom)[rng.integers(4)]
    limits = {"bytes": third.use} if rng.random() < 0.7 else {}
    return saving, damage, limits


def keeps(point: Point, limits: Mapping[str, float]) -> bool:
    return point.use <= limits.get("bytes", math.inf)


def solve(call: Callable[[], Allocation]) -> Allocation | None:
    try:
        return call()
    except InfeasibleError:
        return None


def check(problem: Problem, points: Sequence[Point], found: Allocation | None, best: Point | None) -> None:
    """Same verdict, and the same numbers to the last bit."""
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    point = next(point for point in points if point.chosen == frozenset(found.chosen))
    assert (found.saving, found.damage) == (point.saving, point.damage)
    assert found.use.get("bytes", 0.0) == point.use
    assert (found.saving, found.damage) == (best.saving, best.damage)
    assert found.proven
    assert found.chosen == tuple(option.key for option in problem.options if option.key in point.chosen)


@pytest.mark.parametrize("block", range(10))
def test_equals_enumeration_both_ways(block: int) -> None:
    for seed in range(block, PROBLEMS, 10):
        compare_with_enumeration(seed)


@pytest.mark.parametrize("seed", [*range(15), 40, 292, 306])
def test_by_core_equals_enumeration_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocate_solve, "IN_FULL_UP_TO", 0)
    monkeypatch.setattr(allocate_highs, "FIRST_CORE", 1)
    monkeypatch.setattr(allocate_highs, "CORE_GROWTH", 2)

    compare_with_enumeration(seed)


def compare_with_enumeration(seed: int) -> None:
    problem = random_problem(seed)
    points = list(enumerate_points(problem))
    saving, damage, limits = random_bounds(seed, points)

    found = solve(lambda: minimize_damage(problem, min_saving=saving, limits=limits))
    allowed = [p for p in points if p.saving >= saving and keeps(p, limits)]
    check(problem, points, found, min(allowed, key=lambda p: (p.damage, -p.saving), default=None))

    found = solve(lambda: maximize_saving(problem, max_damage=damage, limits=limits))
    allowed = [p for p in points if p.damage <= damage and keeps(p, limits)]
    check(problem, points, found, min(allowed, key=lambda p: (-p.saving, p.damage), default=None))


def test_the_random_problems_are_not_all_alike() -> None:
    """Both verdicts, and every kind of pair, come up among them."""
    problems = [random_problem(seed) for seed in range(PROBLEMS)]
    verdicts = set[bool]()
    for seed in range(0, PROBLEMS, 10):
        points = list(enumerate_points(problems[seed]))
        saving, _, limits = random_bounds(seed, points)
        verdicts.add(any(p.saving >= saving and keeps(p, limits) for p in points))

    assert verdicts == {True, False}
    assert any(p.exclusions for p in problems)
    assert any(p.implications for p in problems)
    assert any(pair.damage < 0 for p in problems for pair in p.interactions)
