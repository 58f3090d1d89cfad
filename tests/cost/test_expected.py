"""Expected cost under exits, checked against enumerating what can happen."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.cost.expected import (
    Curve,
    binomial,
    expected_batch_cost,
    expected_cost,
    expected_depth,
    expected_left,
    masked_cost,
    reach_of,
    stage_runs,
)
from adapass.cost.model import FREE, Cost, Trust


def measured(seconds: float) -> Cost:
    return Cost(seconds, Trust.MEASURED)


def reaches() -> st.SearchStrategy[tuple[float, ...]]:
    shares = st.lists(st.floats(0, 1), min_size=0, max_size=3)
    return shares.map(lambda rest: (1.0, *sorted(rest, reverse=True)))


class TestReach:
    def test_counts_who_is_left(self) -> None:
        assert reach_of(np.array([0, 0, 1, 2]), 3) == (1.0, 0.5, 0.25)

    def test_nobody_may_leave_early(self) -> None:
        assert reach_of(np.array([2, 2]), 3) == (1.0, 1.0, 1.0)

    def test_everybody_may_leave_at_once(self) -> None:
        assert reach_of(np.array([0, 0]), 3) == (1.0, 0.0, 0.0)

    @pytest.mark.parametrize("exits", [[], [3], [-1]], ids=["no-samples", "too-large", "negative"])
    def test_wrong_indices_are_refused(self, exits: list[int]) -> None:
        with pytest.raises(ValueError, match=r"must lie in 0\.\.2"):
            reach_of(np.array(exits, np.int64), 3)


class TestOneSample:
    def test_stages_count_by_how_many_reach_them(self) -> None:
        cost = expected_cost([measured(1.0), measured(2.0), measured(4.0)], [1.0, 0.5, 0.25])

        assert cost == measured(1.0 + 1.0 + 1.0)

    def test_is_as_trustworthy_as_its_worst_stage(self) -> None:
        cost = expected_cost([measured(1.0), Cost(1.0, Trust.MODEL)], [1.0, 0.5])

        assert cost.trust is Trust.MODEL

    def test_masked_models_pay_for_everything(self) -> None:
        assert masked_cost([measured(1.0), measured(2.0)]) == measured(3.0)

    @given(
        exits=st.lists(st.integers(0, 3), min_size=1, max_size=20),
        costs=st.lists(st.floats(0, 10), min_size=4, max_size=4),
    )
    def test_is_the_mean_over_samples(self, exits: list[int], costs: list[float]) -> None:
        reach = reach_of(np.array(exits, np.int64), 4)

        by_sample = [sum(costs[: taken + 1]) for taken in exits]

        assert expected_cost([measured(c) for c in costs], reach).seconds == pytest.approx(np.mean(by_sample))
        assert expected_depth(reach, [1, 1, 1, 1]) == pytest.approx(np.mean(exits) + 1)

    @pytest.mark.parametrize(
        ("reach", "message"),
        [
            ((1.0,), "2 stages but 1 reach"),
            ((0.5, 1.0), "never grow"),
            ((1.5, 1.0), r"must lie in 0\.\.1"),
            ((1.0, -0.1), r"must lie in 0\.\.1"),
        ],
    )
    def test_impossible_reach_is_refused(self, reach: tuple[float, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            expected_cost([FREE, FREE], reach)


class TestCurve:
    CURVE = Curve({2: measured(1.0), 4: measured(3.0)})

    @pytest.mark.parametrize(
        ("samples", "seconds", "trust"),
        [
            pytest.param(0, 0.0, Trust.MEASURED, id="nothing-to-do"),
            pytest.param(1, 1.0, Trust.MODEL, id="below-the-smallest-it-stays"),
            pytest.param(2, 1.0, Trust.MEASURED, id="as-measured"),
            pytest.param(3, 2.0, Trust.MODEL, id="between"),
            pytest.param(8, 6.0, Trust.MODEL, id="above-the-largest-it-grows"),
        ],
    )
    def test_interpolates(self, samples: int, seconds: float, trust: Trust) -> None:
        assert self.CURVE.at(samples) == Cost(seconds, trust)

    def test_a_guess_stays_a_guess(self) -> None:
        curve = Curve({1: Cost(1.0, Trust.GUESS), 4: measured(2.0)})

        assert curve.at(2).trust is Trust.GUESS

    @pytest.mark.parametrize("points", [{}, {0: FREE}], ids=["empty", "batch-0"])
    def test_needs_a_point(self, points: dict[int, Cost]) -> None:
        with pytest.raises(ValueError, match="at least one measured batch size"):
            Curve(points)


class TestBatch:
    @given(reach=reaches(), batch=st.integers(1, 4), slope=st.floats(0, 5), offset=st.floats(0, 5))
    def test_equals_enumeration(
        self, reach: tuple[float, ...], batch: int, slope: float, offset: float
    ) -> None:
        curve = Curve({n: measured(offset + slope * n) for n in range(1, batch + 1)})
        stages = len(reach)
        leaving = [a - b for a, b in zip(reach, (*reach[1:], 0.0), strict=True)]

        expected = 0.0
        for exits in product(range(stages), repeat=batch):
            left = [sum(taken >= stage for taken in exits) for stage in range(stages)]
            expected += prod(leaving[taken] for taken in exits) * sum(curve.at(n).seconds for n in left)

        found = expected_batch_cost([curve] * stages, reach, batch)
        assert found.seconds == pytest.approx(expected, abs=1e-9)
        assert found.trust is Trust.MEASURED

    def test_batch_1_is_the_cost_of_one_sample(self) -> None:
        reach = (1.0, 0.3, 0.1)
        costs = [measured(1.0), measured(2.0), measured(3.0)]

        batched = expected_batch_cost([Curve({1: cost}) for cost in costs], reach, 1)

        assert batched.seconds == pytest.approx(expected_cost(costs, reach).seconds)

    def test_compaction_saves_only_where_cost_depends_on_the_batch(self) -> None:
        flat = Curve({1: measured(1.0), 32: measured(1.0)})
        steep = Curve({1: measured(1.0), 32: measured(32.0)})
        reach = (1.0, 0.25)

        assert expected_batch_cost([flat, flat], reach, 32).seconds == pytest.approx(2.0, abs=1e-3)
        assert expected_batch_cost([steep, steep], reach, 32).seconds == pytest.approx(40.0)

    def test_who_is_left_and_what_still_runs(self) -> None:
        assert expected_left((1.0, 0.25), 32) == (32.0, 8.0)
        assert stage_runs((1.0, 0.5, 0.0), 2) == (1.0, 0.75, 0.0)


class TestBinomial:
    @given(trials=st.integers(1, 60), probability=st.floats(0, 1))
    def test_is_a_distribution_with_the_right_mean(self, trials: int, probability: float) -> None:
        found = binomial(trials, probability)

        assert sum(found) == pytest.approx(1.0)
        assert sum(k * p for k, p in enumerate(found)) == pytest.approx(trials * probability, abs=1e-9)

    def test_large_batches_do_not_overflow(self) -> None:
        assert sum(binomial(4096, 0.5)) == pytest.approx(1.0)
