"""The front of allocations, and that the order of what is given does not decide."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.search.allocate import (
    Option,
    Problem,
    front,
    maximize_saving,
)
from tests.search.enumeration import DAMAGE, enumerate_points, random_problem


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=15, deadline=None)
def test_does_not_depend_on_the_order_of_anything(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    shuffled = Problem(
        tuple(data.draw(st.permutations(problem.options))),
        tuple((b, a) for a, b in data.draw(st.permutations(problem.exclusions))),
        tuple(data.draw(st.permutations(problem.implications))),
        tuple(data.draw(st.permutations(problem.interactions))),
    )

    first = maximize_saving(problem, max_damage=2 * DAMAGE)
    second = maximize_saving(shuffled, max_damage=2 * DAMAGE)

    assert set(first.chosen) == set(second.chosen)
    assert (first.saving, first.damage, first.use) == (second.saving, second.damage, second.use)


@pytest.mark.parametrize("seed", range(12))
def test_front_is_made_of_optima_and_rises(seed: int) -> None:
    problem = random_problem(seed)
    points = list(enumerate_points(problem))
    largest = max(p.saving for p in points)

    found = front(problem, steps=7)

    assert [a.saving for a in found] == sorted({a.saving for a in found})
    assert [a.damage for a in found] == sorted({a.damage for a in found})
    assert found[0].saving >= min(0.0, largest)
    assert found[-1].saving == pytest.approx(largest, rel=1e-9)
    for allocation in found:
        assert not any(p.saving >= allocation.saving and p.damage < allocation.damage for p in points)


def test_front_starts_at_nothing_and_ends_at_the_largest_saving() -> None:
    problem = Problem(tuple(Option(f"{i}", f"{i}", (i + 1) * 1e-5, (i + 1) ** 2 * 1e-6) for i in range(4)))

    found = front(problem, steps=5)

    assert found[0].chosen == ()
    assert found[-1].chosen == ("0", "1", "2", "3")
    assert len(found) == 5
