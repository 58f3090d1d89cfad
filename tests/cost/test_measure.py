"""Interleaved timing, against a pretended clock: who runs when, what counts, when it stops, what it says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from adapass.budgeted import Feeds
from adapass.cost.measure import MAX_BLOCK, MIN_BLOCK, Clock, interleaved, load_per_core, order_of_step
from adapass.progress import Silent


@dataclass
class Bench:
    """A clock that only moves when a contestant runs or somebody sleeps, and a log of both."""

    time: float = 0.0
    log: list[str] = field(default_factory=list[str])
    load: float | None = 0.0
    processor: float = 0.0
    spin: float = 0.0
    """Processor seconds that idle threads still burn after a call."""
    spinning: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(
            now=lambda: self.time,
            sleep=self.sleep,
            processor=lambda: self.processor,
            load=lambda: self.load,
        )

    def sleep(self, seconds: float) -> None:
        self.log.append("-")
        self.time += seconds
        burnt = min(seconds, self.spinning)
        self.spinning -= burnt
        self.processor += burnt

    def contestant(
        self, name: str, seconds: Callable[[int], float] = lambda _: 0.01
    ) -> Callable[[Feeds], None]:
        def run(feed: Feeds) -> None:
            number = int(feed["x"][0])
            self.log.append(f"{name}{number}")
            self.time += seconds(number)
            self.spinning = self.spin

        return run

    @property
    def story(self) -> str:
        return " ".join(self.log)


def numbered(count: int) -> list[Feeds]:
    return [{"x": np.array([index])} for index in range(count)]


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


class TestTimeBudget:
    def test_stops_after_the_step_in_which_time_is_up(self) -> None:
        bench = Bench()

        timing = interleaved(
            {"a": bench.contestant("a")},
            numbered(8),
            rounds=10,
            warmup=1,
            block=2,
            discard=0,
            max_seconds=0.05,
            clock=bench.clock,
        )["a"]

        # A step takes 0.02 s: the third begins at 0.04 s, a fourth would begin at 0.06 s.
        assert timing.n == 6
        assert timing.calls.shape == (1, 8)
        assert timing.notes == ("time was up: 6 of 8 inputs were timed",)

    def test_what_was_reached_is_spread_over_the_feeds(self) -> None:
        bench = Bench()

        timing = interleaved(
            {"a": bench.contestant("a", lambda feed: 1.0 + feed)},
            numbered(8),
            rounds=1,
            warmup=1,
            block=2,
            discard=0,
            max_seconds=0.001,
            clock=bench.clock,
        )["a"]

        assert timing.feed_medians.tolist() == [1.0, 5.0]

    def test_contestants_miss_the_same_calls(self) -> None:
        bench = Bench()

        timings = interleaved(
            {"a": bench.contestant("a"), "b": bench.contestant("b")},
            numbered(8),
            rounds=5,
            warmup=1,
            block=2,
            max_seconds=1.0,
            clock=bench.clock,
        )

        missing = np.isnan(timings["a"].calls)
        assert missing.any()
        assert (missing == np.isnan(timings["b"].calls)).all()
        assert timings["a"].ratio(timings["b"]).value == pytest.approx(1.0)


class TestBlockSize:
    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            pytest.param(0.01, 10, id="a-tenth-of-a-second"),
            pytest.param(1.0, MIN_BLOCK, id="at-least"),
            pytest.param(1e-6, MAX_BLOCK, id="at-most"),
            pytest.param(0.0, MAX_BLOCK, id="faster-than-the-clock"),
        ],
    )
    def test_follows_the_fastest_contestant(self, seconds: float, expected: int) -> None:
        bench = Bench()
        slower = bench.contestant("b", lambda _: 2 * seconds)

        interleaved(
            {"a": bench.contestant("a", lambda _: seconds), "b": slower},
            numbered(MAX_BLOCK),
            rounds=1,
            warmup=1,
            discard=0,
            clock=bench.clock,
        )

        first_block = bench.story.split(" - ")[2].split()
        assert abs(len(first_block) - expected) <= 1

    def test_is_limited_by_the_slowest(self) -> None:
        bench = Bench()
        slow = bench.contestant("b", lambda _: 0.1)

        interleaved(
            {"a": bench.contestant("a", lambda _: 1e-3), "b": slow},
            numbered(40),
            rounds=1,
            warmup=1,
            discard=0,
            clock=bench.clock,
        )

        assert len(bench.story.split(" - ")[2].split()) == 10

    def test_warm_up_decides_by_its_last_call(self) -> None:
        bench = Bench()
        first_is_slow = bench.contestant("a", lambda _: 1.0 if len(bench.log) == 1 else 0.01)

        interleaved({"a": first_is_slow}, numbered(10), rounds=1, warmup=3, discard=0, clock=bench.clock)

        assert bench.log[:3] == ["a0", "a1", "a2"]
        assert len(bench.log) == 3 + 10


class TestNotes:
    def test_a_quiet_machine_needs_none(self) -> None:
        bench = Bench()

        timing = interleaved(
            {"a": bench.contestant("a")}, numbered(3), rounds=5, warmup=1, clock=bench.clock
        )["a"]

        assert timing.notes == ()
        assert timing.noise == pytest.approx(0.0, abs=1e-9)

    def test_a_busy_machine_is_named(self) -> None:
        bench = Bench(load=0.9)

        timing = interleaved(
            {"a": bench.contestant("a")}, numbered(3), rounds=1, warmup=1, clock=bench.clock
        )["a"]

        assert timing.notes == ("the machine was busy when timing began (load 0.9 per core)",)

    def test_an_unknown_load_is_not_zero_and_not_busy(self) -> None:
        bench = Bench(load=None)

        timing = interleaved(
            {"a": bench.contestant("a")}, numbered(3), rounds=1, warmup=1, clock=bench.clock
        )["a"]

        assert timing.notes == ()

    def test_noise_between_rounds_is_named_but_not_between_inputs(self) -> None:
        bench = Bench()
        random = np.random.default_rng(1)
        noisy = bench.contestant("n", lambda _: 0.01 * float(random.uniform(1, 2)))
        uneven = bench.contestant("u", lambda feed: 0.01 * (1 + feed))

        timings = interleaved({"n": noisy, "u": uneven}, numbered(20), rounds=8, warmup=1, clock=bench.clock)

        assert timings["n"].notes[0].startswith("noisy: one input's time varies by")
        assert timings["u"].notes == ()

    def test_this_machine_tells_its_load(self) -> None:
        load = load_per_core()

        assert load is None or load >= 0


class TestGarbageCollection:
    def test_is_off_while_timing_and_on_again(self) -> None:
        seen: list[bool] = []
        assert gc.isenabled()

        interleaved({"a": lambda _: seen.append(gc.isenabled())}, numbered(2), rounds=1, warmup=1)

        assert seen
        assert not any(seen)
        assert gc.isenabled()

    def test_is_on_again_after_a_failure(self) -> None:
        def fails(_feed: Feeds) -> None:
            raise RuntimeError("broken model")

        with pytest.raises(RuntimeError, match="broken model"):
            interleaved({"a": fails}, numbered(2), rounds=1, warmup=1)

        assert gc.isenabled()

    def test_stays_off_for_those_who_turned_it_off(self) -> None:
        gc.disable()
        try:
            interleaved({"a": lambda _: None}, numbered(2), rounds=1, warmup=1)
            assert not gc.isenabled()
        finally:
            gc.enable()


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
