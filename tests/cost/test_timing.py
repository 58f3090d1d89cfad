"""Statistics of a timing run: means over inputs, percentiles, ratios and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adapass.cost.timing import Ratio, Seconds, Timing

NAN = float("nan")


def timing(*rounds: list[float], batch: int = 1) -> Timing:
    return Timing(np.array(rounds), (batch,) * len(rounds[0]))


def noisy(feed_seconds: Seconds, rounds: int, seed: int, outliers: float = 0.0) -> Timing:
    random = np.random.default_rng(seed)
    calls = feed_seconds * random.normal(1.0, 0.02, (rounds, feed_seconds.size))
    calls[random.uniform(size=calls.shape) < outliers] *= 30
    return Timing(calls, (1,) * feed_seconds.size)


def test_the_mean_is_over_inputs_of_the_median_over_rounds() -> None:
    found = timing([1.0, 10.0], [1.0, 10.0], [100.0, 10.0])

    assert found.feed_medians.tolist() == [1.0, 10.0]
    assert found.mean == 5.5


def test_the_mean_sees_rare_slow_inputs_that_the_median_does_not() -> None:
    found = timing([1.0] * 9 + [11.0])

    assert found.median == 1.0
    assert found.mean == 2.0


def test_percentiles_and_spread_are_over_all_calls() -> None:
    found = timing(list(map(float, range(101))))

    assert (found.median, found.p90, found.p99, found.spread, found.n) == (50.0, 90.0, 99.0, 50.0, 101)


def test_throughput_counts_samples_not_calls() -> None:
    assert timing([0.5, 1.5], batch=8).throughput == 8.0


def test_calls_that_were_not_made_do_not_count() -> None:
    found = timing([1.0, 2.0, NAN], [3.0, NAN, NAN], [5.0, NAN, NAN])

    assert found.feed_medians.tolist() == [3.0, 2.0]
    assert found.n == 4
    assert found.complete_rounds.tolist() == [[1.0, 2.0]]
    assert found.throughput == 2 / 5


def test_noise_needs_four_rounds() -> None:
    assert timing([1.0], [2.0], [3.0]).noise is None
    assert timing([1.0], [2.0], [3.0], [4.0]).noise == pytest.approx(1.5 / 2.5)


def test_is_json_with_units_in_names() -> None:
    found = json.loads(json.dumps(timing([1.0, 2.0]).to_json()))

    assert found["mean_seconds"] == 1.5
    assert found["calls"] == 2
    assert found["noise"] is None
    assert found["notes"] == []


class TestRatio:
    def test_is_the_ratio_of_means(self) -> None:
        ratio = timing([1.0, 3.0]).ratio(timing([2.0, 6.0]))

        assert ratio.value == 0.5
        assert ratio.low == pytest.approx(0.5)
        assert ratio.high == pytest.approx(0.5)
        assert ratio.is_faster

    def test_the_interval_is_deterministic(self) -> None:
        feeds = np.linspace(1, 3, 50)
        first, second = noisy(feeds, 5, seed=1), noisy(feeds, 5, seed=2)

        assert first.ratio(second) == first.ratio(second)

    def test_equal_contestants_are_not_called_faster(self) -> None:
        feeds = np.linspace(1, 3, 40)

        called_faster = sum(
            noisy(feeds, 4, seed=2 * run).ratio(noisy(feeds, 4, seed=2 * run + 1)).is_faster
            for run in range(60)
        )

        # At most 2.5 % are expected; 6 of 60 would be far out.
        assert called_faster < 6

    @pytest.mark.parametrize("rounds", [3, 6])
    def test_the_interval_covers_the_truth_when_whole_rounds_are_disturbed(self, rounds: int) -> None:
        random = np.random.default_rng(rounds)
        feeds, truth, covered = np.linspace(1, 3, 40), 0.8, 0
        for run in range(100):
            ours, theirs = noisy(truth * feeds, rounds, seed=run), noisy(feeds, rounds, seed=1000 + run)
            disturbed = [t.calls * random.normal(1, 0.03, (rounds, 1)) for t in (ours, theirs)]
            ratio = Timing(disturbed[0], (1,) * 40).ratio(Timing(disturbed[1], (1,) * 40))
            covered += ratio.low <= truth <= ratio.high

        assert covered >= 88

    def test_a_clear_difference_is_seen_through_outliers(self) -> None:
        feeds = np.linspace(1, 3, 100)

        ratio = noisy(0.8 * feeds, 6, seed=1, outliers=0.02).ratio(noisy(feeds, 6, seed=2, outliers=0.02))

        assert ratio.is_faster
        assert ratio.low < 0.8 < ratio.high

    def test_different_inputs_widen_the_interval(self) -> None:
        random = np.random.default_rng(3)
        base = np.ones(60)
        even = noisy(0.5 * base, 5, seed=1).ratio(noisy(base, 5, seed=2))
        # Half of the samples leave early: which samples were drawn matters for the mean.
        mixed = noisy(np.where(random.uniform(size=60) < 0.5, 0.1, 0.9), 5, seed=1).ratio(
            noisy(base, 5, seed=2)
        )

        assert mixed.high - mixed.low > 5 * (even.high - even.low)

    def test_more_confidence_is_a_wider_interval(self) -> None:
        feeds = np.linspace(1, 3, 30)
        ours, theirs = noisy(feeds, 5, seed=1), noisy(feeds, 5, seed=2)

        narrow, wide = ours.ratio(theirs, confidence=0.5), ours.ratio(theirs, confidence=0.99)

        assert wide.high - wide.low > narrow.high - narrow.low

    def test_only_one_run_is_compared(self) -> None:
        with pytest.raises(ValueError, match="not of one run"):
            timing([1.0]).ratio(timing([1.0, 2.0]))
        with pytest.raises(ValueError, match="not of one run"):
            timing([1.0, NAN]).ratio(timing([1.0, 2.0]))

    def test_an_interval_that_touches_one_is_not_faster(self) -> None:
        assert not Ratio(0.9, 0.8, 1.0, 0.95).is_faster
        assert Ratio(0.9, 0.8, 0.99, 0.95).is_faster
