"""Estimates: what adds up, and what cancels in a difference."""

from __future__ import annotations

import pytest

from adapass.cost.estimate import NOTHING, Estimate, Share
from adapass.cost.model import Cost, Trust


def part(key: str, seconds: float, spread: float = 0.1) -> Estimate:
    low, high = seconds * (1 - spread), seconds * (1 + spread)
    return Estimate(
        seconds, low, high, Trust.MEASURED, (Share(key, key, seconds, low, high, Trust.MEASURED),)
    )


def test_sums_add_both_ends_and_take_the_worst_trust() -> None:
    found = part("a", 1.0) + Estimate.of(Cost(2.0, Trust.MODEL), 0.5)

    assert (found.seconds, found.low, found.high) == pytest.approx((3.0, 1.9, 4.1))
    assert found.trust is Trust.MODEL


def test_weighing_keeps_the_relative_width() -> None:
    found = part("a", 1.0) * 3.0

    assert found.spread == pytest.approx(0.1)
    assert found.parts[0].seconds == 3.0


def test_a_further_error_adds_to_both_ends() -> None:
    assert part("a", 2.0).widened(0.2).spread == pytest.approx(0.3)


def test_common_parts_cancel_in_a_difference() -> None:
    before, after = part("a", 10.0) + part("b", 2.0), part("a", 10.0) + part("c", 1.0)

    found = before.minus(after)

    assert found.seconds == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((1.0 - 0.3, 1.0 + 0.3))


@pytest.mark.parametrize(("first", "second"), [(4.0, 1.0), (1.0, 4.0)], ids=["runs-less", "runs-more"])
def test_a_part_that_runs_more_or_less_counts_by_the_rest(first: float, second: float) -> None:
    found = part("a", first).minus(part("a", second))

    assert found.seconds == pytest.approx(first - second)
    assert found.high - found.low == pytest.approx(2 * 0.3)


def test_nothing_changes_nothing() -> None:
    assert NOTHING + part("a", 1.0) == part("a", 1.0)
    assert NOTHING.spread == 0.0
