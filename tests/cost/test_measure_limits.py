"""Interleaved timing, against a pretended clock: when it stops, what it says, what it leaves alone."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from adapass.budgeted import Feeds
from adapass.cost.measure import MAX_BLOCK, MIN_BLOCK, interleaved, load_per_core
from tests.cost.pretended import Bench, numbered


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
