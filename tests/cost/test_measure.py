"""Interleaved timing, against a pretended clock: who runs when, and what counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from adapass.cost.measure import interleaved, order_of_step
from adapass.progress import Silent
from tests.cost.pretended import Bench, numbered


def test_blocks_alternate_pause_and_discard_their_first_call() -> None:
    bench = Bench()

    interleaved(
        {"a": bench.contestant("a"), "b": bench.contestant("b")},
        numbered(4),
        rounds=2,
        warmup=1,
        block=2,
        clock=bench.clock,
    )

    assert bench.story == (
        "a0 - b0 - "  # warm-up
        "a0 a0 a2 - b0 b0 b2 - "  # round 0, block of feeds 0 and 2: a first
        "b1 b1 b3 - a1 a1 a3 - "  # block of feeds 1 and 3: b first
        "b0 b0 b2 - a0 a0 a2 - "  # round 1: the other way round for the same feeds
        "b1 b1 b3 - a1 a1 a3 -"
    )


@pytest.mark.parametrize(
    ("names", "orders"),
    [
        pytest.param("a", ["a", "a", "a"], id="alone"),
        pytest.param("ab", ["ab", "ba", "ba", "ab", "ab"], id="two-take-turns-abba"),
        pytest.param("abc", ["abc", "cba", "bca", "acb", "cab", "bac", "abc"], id="three-rotate-and-turn"),
    ],
)
def test_the_order_changes_with_the_step(names: str, orders: Sequence[str]) -> None:
    assert ["".join(order_of_step(tuple(names), step)) for step in range(len(orders))] == orders


@pytest.mark.parametrize("count", [2, 3, 4])
def test_everybody_is_in_every_place_equally_often(count: int) -> None:
    names = tuple("abcd"[:count])
    orders = [order_of_step(names, step) for step in range(2 * count)]

    for place in range(count):
        assert sorted(order[place] for order in orders) == sorted(names * 2)


@pytest.mark.parametrize("discard", [0, 1, 3])
def test_discarded_calls_run_but_do_not_count(discard: int) -> None:
    bench = Bench()
    waking = iter([True] * discard)

    def slow_when_woken(_feed: int) -> float:
        warm_up = len(bench.log) <= 2
        return 0.01 if warm_up or not next(waking, False) else 5.0

    timing = interleaved(
        {"a": bench.contestant("a", slow_when_woken)},
        numbered(3),
        rounds=1,
        warmup=2,
        block=3,
        discard=discard,
        clock=bench.clock,
    )["a"]

    assert timing.p99 == pytest.approx(0.01)
    assert timing.n == 3
    assert len(bench.log) == 2 + discard + 3


def test_the_pause_lasts_until_idle_threads_sleep() -> None:
    bench = Bench(spin=0.02)

    interleaved(
        {"a": bench.contestant("a"), "b": bench.contestant("b")},
        numbered(1),
        rounds=1,
        warmup=1,
        block=1,
        discard=0,
        clock=bench.clock,
    )

    # 5 ms a step: four steps of spinning, one that finds all quiet.
    assert bench.story == "a0 - - - - - b0 - - - - - a0 - - - - - b0 - - - - -"


def test_threads_that_never_sleep_do_not_stop_the_run() -> None:
    bench = Bench(spin=1e9)

    interleaved(
        {"a": bench.contestant("a"), "b": bench.contestant("b")},
        numbered(1),
        rounds=1,
        warmup=1,
        block=1,
        max_pause_seconds=0.02,
        clock=bench.clock,
    )

    assert bench.story.startswith("a0 - - - - b0 - - - - a0")


def test_one_contestant_alone_needs_no_pause() -> None:
    bench = Bench()

    interleaved({"a": bench.contestant("a")}, numbered(4), rounds=3, warmup=1, block=2, clock=bench.clock)

    assert "-" not in bench.log


def test_every_contestant_sees_every_feed_in_every_round() -> None:
    bench = Bench()
    names = ("a", "b", "c")

    timings = interleaved(
        {name: bench.contestant(name, lambda feed: 1.0 + feed) for name in names},
        numbered(7),
        rounds=3,
        warmup=1,
        block=3,
        clock=bench.clock,
    )

    for name in names:
        assert timings[name].calls.shape == (3, 7)
        np.testing.assert_allclose(timings[name].calls, np.tile(np.arange(1.0, 8.0), (3, 1)))


def test_times_belong_to_their_contestant() -> None:
    bench = Bench()
    contestants = {
        "slow": bench.contestant("s", lambda _: 0.03),
        "fast": bench.contestant("f", lambda _: 0.01),
    }

    timings = interleaved(contestants, numbered(5), rounds=4, warmup=1, clock=bench.clock)

    assert timings["slow"].mean == pytest.approx(0.03)
    assert timings["fast"].ratio(timings["slow"]).value == pytest.approx(1 / 3)


def test_a_slow_drift_hits_both_alike() -> None:
    bench = Bench()
    # The machine gets slower all the time; equal contestants must still come out equal.
    drifting = {name: bench.contestant(name, lambda _: 0.01 * (1 + bench.time)) for name in ("a", "b")}

    timings = interleaved(
        drifting, numbered(64), rounds=4, warmup=1, block=8, discard=0, max_pause_seconds=0, clock=bench.clock
    )

    mean = {name: timing.calls.mean() for name, timing in timings.items()}
    assert bench.time > 10
    assert mean["a"] / mean["b"] == pytest.approx(1.0, abs=0.02)


def test_progress_counts_steps() -> None:
    class Watcher(Silent):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def step(self, done: int, total: int, note: str = "") -> None:
            self.seen.append((done, total))

    watcher, bench = Watcher(), Bench()

    interleaved(
        {"a": bench.contestant("a")},
        numbered(4),
        rounds=2,
        warmup=1,
        block=2,
        progress=watcher,
        clock=bench.clock,
    )

    assert watcher.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("feeds", "rounds", "block"),
    [(0, 1, 1), (1, 0, 1), (1, 1, 0)],
    ids=["no-feeds", "no-rounds", "empty-blocks"],
)
def test_nothing_to_time_is_an_error(feeds: int, rounds: int, block: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        interleaved({"a": lambda _: None}, numbered(feeds), rounds=rounds, warmup=1, block=block)


def test_nobody_to_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one contestant"):
        interleaved({}, numbered(1), rounds=1, warmup=1)
