from __future__ import annotations

import numpy as np
import pytest

from adapass.drift.windows import kept_starts, log_belief, starts, still_needed


def test_a_start_that_is_looked_at_was_kept_all_along() -> None:
    for now in range(1, 600):
        for start in starts(now).tolist():
            assert start == 0 or all(still_needed(start, then) for then in range(start, now))


def test_what_is_kept_is_counted_without_looking_at_every_start() -> None:
    for now in (0, 1, 5, 16, 100, 1000, 1023, 1024):
        slow = (0, *(start for start in range(1, now + 1) if still_needed(start, now)))
        assert kept_starts(now) == slow


@pytest.mark.parametrize("now", [1_000, 2**20, 10**9])
def test_cost_grows_with_the_logarithm(now: int) -> None:
    assert len(starts(now)) <= 16 + 8 * np.log2(now)
    assert len(kept_starts(now)) <= 16 + 8 * np.log2(now)


@pytest.mark.parametrize("begin", [1, 77, 1000, 4097])
def test_soon_after_any_begin_a_stretch_starts_close_behind_it(begin: int) -> None:
    for length in (10, 40, 200, 1000):
        inside = [
            (start, now)
            for now in range(begin + 1, begin + length + 1)
            for start in starts(now).tolist()
            if start >= begin and now - start >= 0.7 * length
        ]
        assert inside


def test_beliefs_sum_to_one() -> None:
    """What is left after n starts is the telescoped tail."""
    begin = np.arange(100_000)

    assert np.exp(log_belief(begin)).sum() == pytest.approx(1 - 0.5 / (1 + np.log2(100_000)))
