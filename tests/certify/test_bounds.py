from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adapass.certify import Losses, Method, Metric, method_for, p_value, upper_bound
from adapass.certify.betting import betting_p_value
from adapass.errors import DataError, UsageError

Floats = npt.NDArray[np.float64]


def counts(worse: int, better: int, n: int, metric: Metric = Metric.ACCURACY) -> Losses:
    values = np.zeros(n)
    values[:worse] = 1
    values[worse : worse + better] = -1
    return Losses(values, metric)


def test_the_method_follows_from_the_metric_not_from_the_values() -> None:
    assert method_for(Metric.ACCURACY) is Method.EXACT_PAIRED
    assert method_for(Metric.AGREEMENT) is Method.CLOPPER_PEARSON
    others = set(Metric) - {Metric.ACCURACY, Metric.AGREEMENT}
    assert {method_for(metric) for metric in others} == {Method.BETTING}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.floats(0.001, 0.9), st.data())
def test_disagreement_is_clopper_pearson(n: int, budget: float, data: st.DataObject) -> None:
    worse = data.draw(st.integers(0, n))
    losses = counts(worse, 0, n, Metric.AGREEMENT)

    assert p_value(losses, budget) == pytest.approx(
        stats.binomtest(worse, n, budget, "less").pvalue, abs=1e-12
    )
    exact = stats.binomtest(worse, n, alternative="less").proportion_ci(0.95).high
    assert exact <= upper_bound(losses) <= exact + 1e-4


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.AGREEMENT, Metric.ERROR, Metric.COSINE])
def test_the_bound_covers_and_is_not_idle(metric: Metric) -> None:
    rng = np.random.default_rng(5)
    drop, n, runs = 0.02, 400, 200
    low = [0.03, 0.01] if metric.needs_labels else [0.02, 0.0]
    found = [
        upper_bound(Losses(rng.choice([1.0, -1.0, 0.0], n, p=[*low, 1 - sum(low)]), metric), tolerance=1e-3)
        for _ in range(runs)
    ]
    assert np.mean(np.array(found) <= drop) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert np.median(found) < 0.06


@pytest.mark.parametrize("worse", [0, 3, 12])
def test_bound_and_test_agree(worse: int) -> None:
    losses = counts(worse, 2, 500)
    bound = upper_bound(losses)

    assert p_value(losses, bound) <= 0.05
    assert p_value(losses, bound - 2e-4) > 0.05


def test_more_confidence_costs_more() -> None:
    losses = counts(5, 2, 500)
    assert upper_bound(losses, 0.9) < upper_bound(losses, 0.95) < upper_bound(losses, 0.99)


def test_betting_holds_the_level_on_hard_nulls() -> None:
    """Skewed, nearly constant and two-point losses with a mean exactly at the budget."""
    rng = np.random.default_rng(11)
    n, runs, budget = 200, 600, 0.05
    nulls: dict[str, Callable[[], Floats]] = {
        "rare": lambda: (rng.random(n) < budget).astype(float),
        "spread": lambda: rng.beta(0.05, 0.95, n),
        "steady": lambda: np.clip(rng.normal(budget, 0.002, n), 0, 1),
        "paired": lambda: rng.choice([1.0, -1.0, 0.0], n, p=[0.15, 0.1, 0.75]),
    }
    for name, draw in nulls.items():
        low = -1.0 if name == "paired" else 0.0
        wrong = np.mean([betting_p_value(draw(), low, budget, 0.05) <= 0.05 for _ in range(runs)])
        assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs), name


def test_betting_says_yes_when_there_is_room() -> None:
    rng = np.random.default_rng(3)
    fractions = (rng.binomial(20, 0.02, (100, 1100)) - rng.binomial(20, 0.018, (100, 1100))) / 20

    passed = np.mean([betting_p_value(row, -1.0, 0.01, 0.05) <= 0.05 for row in fractions])

    assert passed > 0.7


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(0, 0.999), st.floats(0.01, 0.5))
def test_betting_gives_a_probability_whatever_the_values(
    values: list[float], budget: float, error: float
) -> None:
    found = betting_p_value(np.array(values), -1.0, budget, error)

    assert 0 < found <= 1
    assert betting_p_value(np.ones(len(values)), -1.0, budget, error) == 1.0


def test_one_bad_sample_does_not_ruin_the_player() -> None:
    values = np.zeros(2000)
    values[::100] = 1
    assert betting_p_value(values, 0.0, 0.05, 0.05) <= 0.05


def test_a_file_sorted_by_difficulty_is_no_trap() -> None:
    """In file order the bets would see 900 clean samples first and certify before the bad ones come."""
    values = np.zeros(1000)
    values[900:] = 1
    assert betting_p_value(values, 0.0, 0.05, 0.05) > 0.05


@pytest.mark.parametrize(
    ("drop", "confidence"), [(-0.1, 0.95), (1.0, 0.95), (0.1, 1.0), (0.1, 0.3), (math.nan, 0.95)]
)
def test_refuses_budgets_out_of_range(drop: float, confidence: float) -> None:
    with pytest.raises(UsageError, match="found; a share in"):
        p_value(counts(0, 0, 10), drop, confidence)


@pytest.mark.parametrize(
    ("values", "metric", "message"),
    [
        ([], Metric.ACCURACY, "at least one, expected"),
        ([[0.0]], Metric.ACCURACY, "one number a sample"),
        ([-1.0], Metric.AGREEMENT, r"leave \[0, 1\]"),
        ([1.5], Metric.ERROR, r"leave \[-1, 1\]"),
        ([float("nan")], Metric.ERROR, "leave"),
        ([0.5], Metric.ACCURACY, "not whole numbers"),
    ],
)
def test_refuses_losses_out_of_bounds(values: list[float], metric: Metric, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Losses(np.array(values, np.float64), metric)


def test_zero_budget_needs_a_better_candidate() -> None:
    assert p_value(counts(0, 0, 1000), 0.0) == 1.0
    assert p_value(counts(0, 0, 1000, Metric.AGREEMENT), 0.0) == 1.0
    assert p_value(counts(5, 30, 1000), 0.0) < 0.01
