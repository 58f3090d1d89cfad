from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adapass.certify.paired import log_ratio, paired_p_value

Floats = npt.NDArray[np.float64]


def outcomes(n: int) -> npt.NDArray[np.int64]:
    return np.array(
        [(worse, better) for worse, better in product(range(n + 1), repeat=2) if worse + better <= n]
    )


def probabilities(table: npt.NDArray[np.int64], n: int, p: float, q: float) -> Floats:
    counts = np.column_stack([table, n - table.sum(axis=1)])
    return np.asarray(stats.multinomial.pmf(counts, n, [p, q, max(1 - p - q, 0.0)]), np.float64)


@pytest.mark.parametrize(
    ("n", "budget"), [(1, 0.3), (12, 0.25), (25, 0.0), (30, 0.2), (40, 0.1), (45, 0.05), (60, 0.02)]
)
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_rejects_no_null_more_often_than_it_may(n: int, budget: float, error: float) -> None:
    table = outcomes(n)
    rejected = np.array([paired_p_value(int(a), int(b), n, budget, error) <= error for a, b in table])
    boundary = [(q + budget, q) for q in np.linspace(0, (1 - budget) / 2, 60)]
    beyond = [(p, q) for p, q in product(np.linspace(0, 1, 12), repeat=2) if p + q <= 1 and p - q >= budget]

    worst = max(float(probabilities(table, n, p, q)[rejected].sum()) for p, q in boundary + beyond)

    assert worst <= error


@pytest.mark.parametrize(("n", "budget"), [(60, 0.1), (100, 0.05)])
def test_uses_most_of_the_error_it_has(n: int, budget: float) -> None:
    table = outcomes(n)
    weights = probabilities(table, n, budget + 0.05, 0.05)
    likely = weights > 1e-7
    size = sum(
        weight
        for (a, b), weight in zip(table[likely], weights[likely], strict=True)
        if paired_p_value(int(a), int(b), n, budget) <= 0.05
    )
    assert size > 0.025


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 14), st.floats(0.01, 0.6), st.data())
def test_is_at_least_the_tail_of_every_likely_null(n: int, budget: float, data: st.DataObject) -> None:
    """Against brute force over all outcomes and a grid of the nuisance inside its interval."""
    worse = data.draw(st.integers(0, n))
    better = data.draw(st.integers(0, n - worse))
    table = outcomes(n)
    ratios = log_ratio(table[:, 0].astype(float), table[:, 1].astype(float), n, budget)
    seen = log_ratio(np.array(float(worse)), np.array(float(better)), n, budget)
    if seen <= 0:
        assert paired_p_value(worse, better, n, budget) == 1.0
        return
    interval = stats.binomtest(better, n).proportion_ci(1 - 0.01 * 0.05)
    grid = np.linspace(interval.low, min(interval.high, (1 - budget) / 2), 50)
    tail = ratios >= seen - 1e-9

    brute = max(
        float(probabilities(table, n, q + budget, q)[tail].sum()) for q in grid if q <= (1 - budget) / 2
    )

    found = paired_p_value(worse, better, n, budget)
    assert found >= min(1.0, brute)
    assert found <= 0.05 + 1.05 * brute + 0.01 or found > 0.1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.floats(0, 0.9))
def test_the_tail_regions_are_staircases(n: int, budget: float) -> None:
    """The proof that the worst null lies on the boundary rests on this."""
    table = outcomes(n).astype(float)
    ratio = np.full((n + 1, n + 1), np.nan)
    ratio[table[:, 0].astype(int), table[:, 1].astype(int)] = log_ratio(table[:, 0], table[:, 1], n, budget)
    down, right = np.diff(ratio, axis=0), np.diff(ratio, axis=1)

    assert down[~np.isnan(down)].max() <= 1e-9
    assert right[~np.isnan(right)].min() >= -1e-9


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 3000), st.floats(0, 0.99), st.sampled_from([0.01, 0.05, 0.5]), st.data())
def test_is_a_probability_and_grows_with_losses(
    n: int, budget: float, error: float, data: st.DataObject
) -> None:
    worse = data.draw(st.integers(0, n))
    better = data.draw(st.integers(0, n - worse))

    found = paired_p_value(worse, better, n, budget, error)

    assert 0 < found <= 1
    if (worse - better) / n >= budget:
        assert found == 1.0


def test_agrees_with_the_binomial_when_nothing_gets_better() -> None:
    exact = stats.binom.cdf(14, 1100, 0.02)
    assert paired_p_value(14, 0, 1100, 0.02) == pytest.approx(exact, rel=0.06)


def test_is_sharp_at_the_sizes_that_matter() -> None:
    """Near the normal p-value, which is not valid at finite n but says what can be had."""
    worse, better, n, budget = 25, 15, 1100, 0.02
    spread = math.sqrt((worse + better) / n - ((worse - better) / n) ** 2) / math.sqrt(n)
    normal = float(stats.norm.cdf(((worse - better) / n - budget) / spread))

    assert normal < paired_p_value(worse, better, n, budget) < 1.5 * normal


def test_large_samples_take_no_large_tables() -> None:
    assert paired_p_value(15_500, 14_500, 1_000_000, 0.002, 0.05) < 0.05
    assert paired_p_value(16_500, 14_500, 1_000_000, 0.002, 0.05) > 0.05


def test_pays_for_the_nuisance_interval() -> None:
    """However surprising the data, the interval of the nuisance may have missed: its error is always in."""
    assert paired_p_value(0, 0, 100_000, 0.01, 0.05) >= 0.01 * 0.05
    assert paired_p_value(0, 0, 100_000, 0.01, 0.01) >= 0.01 * 0.01
