"""Ranges of activations from streams of batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.passes.quantize.ranges import Histogram, RangeMethod, activation_scale


def filled(*batches: npt.NDArray[np.float64]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


@pytest.mark.parametrize("method", list(RangeMethod))
def test_does_not_depend_on_the_order_of_batches(method: RangeMethod) -> None:
    random = np.random.default_rng(0)
    batches = [random.normal(size=500) * scale for scale in (1e-3, 1.0, 30.0, 7.0)]

    found = filled(*batches).range(method, 99.9)

    assert found == filled(*reversed(batches)).range(method, 99.9)
    assert found[0] < 0.0 < found[1]


def test_min_max_holds_everything_and_zero() -> None:
    assert filled(np.array([3.0, 5.0])).range(RangeMethod.MIN_MAX, 99.0) == (0.0, 5.0)


def test_percentile_cuts_an_outlier_and_never_exceeds_what_was_seen() -> None:
    numbers = np.concatenate([np.linspace(-1, 1, 99_999), [1000.0]])

    low, high = filled(numbers).range(RangeMethod.PERCENTILE, 99.9)
    everything = filled(numbers).range(RangeMethod.PERCENTILE, 100.0)

    assert -1.3 < low <= -0.9
    assert 0.9 < high < 1.3
    assert everything == (-1.0, 1000.0)


def test_mse_rounds_a_heavy_tail_better_than_min_max() -> None:
    numbers = np.random.default_rng(1).standard_t(4, size=20_000)
    histogram = filled(numbers)

    def error(method: RangeMethod) -> float:
        found = activation_scale(*histogram.range(method, 99.9))
        scale, zero = float(found.scale), int(found.zero_point)
        rounded = (np.clip(np.rint(numbers / scale) + zero, 0, 255) - zero) * scale
        return float(((rounded - numbers) ** 2).mean())

    assert error(RangeMethod.MSE) < 0.98 * error(RangeMethod.MIN_MAX)


def test_entropy_cuts_far_numbers_that_min_max_and_mse_keep() -> None:
    random = np.random.default_rng(2)
    tail = filled(np.concatenate([random.normal(size=200_000), [90.0, 110.0]]))

    assert tail.range(RangeMethod.MIN_MAX, 99.9)[1] == 110.0
    assert tail.range(RangeMethod.MSE, 99.9)[1] > 80.0
    assert 4.0 < tail.range(RangeMethod.ENTROPY, 99.9)[1] < 40.0


@pytest.mark.parametrize("zeros", [0, 100_000], ids=["no-zeros", "half-zeros"])
def test_entropy_keeps_an_even_spread_whole(zeros: int) -> None:
    even = np.concatenate([np.random.default_rng(2).uniform(0.0, 15.9, size=100_000), np.zeros(zeros)])

    low, high = filled(even).range(RangeMethod.ENTROPY, 99.9)

    assert low == 0.0
    assert high > 15.0


def test_entropy_is_not_misled_by_a_heap_of_zeros() -> None:
    """Behind a Relu half of all numbers are 0."""
    numbers = np.maximum(np.random.default_rng(2).normal(size=200_000), 0.0)

    assert filled(numbers).range(RangeMethod.ENTROPY, 99.9)[1] > 4.0


def test_entropy_counts_what_it_cuts_off() -> None:
    random = np.random.default_rng(2)
    heavy = np.concatenate([random.normal(size=100_000), random.uniform(4.0, 16.0, size=5_000)])

    assert filled(heavy).range(RangeMethod.ENTROPY, 99.9)[1] > 15.0


def test_entropy_loses_less_information_than_everything_seen() -> None:
    """Divergence of the rounded numbers (spread over their levels) from the numbers, by histograms."""
    numbers = np.concatenate([np.random.default_rng(3).normal(size=100_000), [150.0]])
    histogram = filled(numbers)

    def lost(method: RangeMethod) -> float:
        found = activation_scale(*histogram.range(method, 99.9))
        scale, zero = float(found.scale), int(found.zero_point)
        spread = np.random.default_rng(4).uniform(-0.5, 0.5, size=numbers.size)
        rounded = (np.clip(np.rint(numbers / scale) + zero, 0, 255) - zero + spread) * scale
        p, q = (np.histogram(each, np.linspace(-5.0, 5.0, 201))[0] + 1.0 for each in (numbers, rounded))
        p, q = p / p.sum(), q / q.sum()
        return float((p * np.log(p / q)).sum())

    assert lost(RangeMethod.ENTROPY) < 0.5 * lost(RangeMethod.MIN_MAX)


def test_ignores_what_is_not_finite() -> None:
    found = filled(np.array([np.nan, np.inf, -np.inf, 2.0]), np.array([np.nan]))

    assert found.range(RangeMethod.MSE, 99.0)[1] <= 2.0
    assert found.range(RangeMethod.MIN_MAX, 99.0) == (0.0, 2.0)


@pytest.mark.parametrize("method", list(RangeMethod))
def test_a_dead_value_gets_scale_one(method: RangeMethod) -> None:
    found = activation_scale(*filled(np.zeros(4), np.zeros(0)).range(method, 99.0))

    assert float(found.scale) == 1.0
    assert int(found.zero_point) == 0


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (0.0, 5.0), (-3.0, 0.0), (-3.4e38, 3.4e38), (1.0, 2.0)]
)
def test_zero_is_exact_and_the_ends_are_near(low: float, high: float) -> None:
    found = activation_scale(low, high)

    scale, zero = float(found.scale), int(found.zero_point)
    assert np.isfinite(scale)
    assert (0 - zero) * scale == pytest.approx(min(low, 0.0), abs=scale)
    assert (255 - zero) * scale == pytest.approx(high, abs=scale)
    assert (zero == 0) == (low >= 0.0)
