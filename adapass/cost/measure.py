"""Honest timing: contestants take turns in blocks, on the same inputs, in an order that changes.

Taking turns call by call would be fairer to slow drifts and wrong for what is timed here: the idle
thread pool of one runtime session goes on spinning for some milliseconds after its call, on the cores
the next contestant needs (a 3.4 ms model then measured 13.9 ms). So one contestant runs a block of
inputs, everybody waits until this process uses no more processor time (the pools sleep; how long that
takes depends on the runtime and the load, 20 to 40 ms were seen), and the first calls of each block,
which wake the contestant's own pool and caches, are not counted.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from adapass.budgeted import Feeds
from adapass.cost.timing import NOISY, Ratio, Seconds, Timing
from adapass.progress import Progress, Silent

__all__ = ["Clock", "Ratio", "Timing", "interleaved", "order_of_step"]

logger = logging.getLogger(__name__)

Contestant: TypeAlias = Callable[[Feeds], object]

PAUSE_STEP_SECONDS: Final = 0.005
MAX_PAUSE_SECONDS: Final = 0.25
"""Between blocks, at most; normally the pause ends when all threads of the process sleep."""
ASLEEP: Final = 0.1
"""Processor time per time of waiting below which the process counts as asleep."""
BLOCK_SECONDS: Final = 0.1
"""How long the fastest contestant's block should last, so that pauses and discarded calls stay cheap."""
MAX_BLOCK_SECONDS: Final = 1.0
"""How long the slowest contestant's block may last, so that a drift cannot hit one contestant only."""
MIN_BLOCK: Final = 4
MAX_BLOCK: Final = 256
TICK_SECONDS: Final = 1e-9
"""The least a call takes: a clock that stands still must not make ratios undefined."""
BUSY: Final = 0.5
"""Load per core before the start above which the machine is called busy."""


def load_per_core() -> float | None:
    """Runnable processes per core over the last minute; ``None`` where the system does not say."""
    try:
        load, _, _ = os.getloadavg()
    except (AttributeError, OSError):
        return None
    return load / (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from; tests hand in their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    processor: Callable[[], float] = time.process_time
    load: Callable[[], float | None] = load_per_core


REAL_CLOCK: Final = Clock()


def interleaved(
    contestants: Mapping[str, Contestant],
    feeds: Sequence[Feeds],
    *,
    rounds: int,
    warmup: int,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    discard: int = 1,
    block: int | None = None,
    max_pause_seconds: float = MAX_PAUSE_SECONDS,
    batch_sizes: Sequence[int] | None = None,
    clock: Clock = REAL_CLOCK,
) -> Mapping[str, Timing]:
    """Time every contestant on every feed, ``rounds`` times, and say what disturbed the run.

    ``warmup`` calls of each contestant come first; ``discard`` calls at the start of each block are not
    counted. ``max_seconds`` limits the timed part: when it ends early, the feeds that were reached are
    spread evenly over ``feeds``, and the notes say so. At least one block is always timed. ``block`` is
    the number of feeds a contestant runs in a row; by default about 0.1 s worth.
    """
    if not contestants or not feeds or rounds < 1:
        raise ValueError("timing needs at least one contestant, one feed and one round")
    if block is not None and block < 1:
        raise ValueError(f"block is {block}, expected at least 1")
    load = clock.load()
    watch = _Watch(contestants, feeds, clock, discard, max_pause_seconds, progress or Silent())
    with _no_garbage_collection():
        last = watch.warm_up(max(warmup, 1))
        size = _block_size(min(last), max(last)) if block is None else block
        calls = watch.time_all(rounds, _blocks(len(feeds), size), max_seconds)
    sizes = tuple(batch_sizes) if batch_sizes is not None else (1,) * len(feeds)
    timings = {name: Timing(calls[name], sizes) for name in contestants}
    return {name: replace(timing, notes=_notes(timing, load)) for name, timing in timings.items()}


def order_of_step(names: Sequence[str], step: int) -> tuple[str, ...]:
    """Who goes first changes with the step: AB, BA, BA, AB, ...; more contestants rotate as well."""
    turn = (step // 2) % len(names)
    rotated = (*names[turn:], *names[:turn])
    return rotated if step % 2 == 0 else rotated[::-1]


@dataclass(frozen=True, slots=True)
class _Watch:
    contestants: Mapping[str, Contestant]
    feeds: Sequence[Feeds]
    clock: Clock
    discard: int
    max_pause_seconds: float
    progress: Progress

    def warm_up(self, count: int) -> Sequence[float]:
        """Run every contestant ``count`` times, uncounted; the seconds of the last call of each."""
        last: list[float] = []
        for run in self.contestants.values():
            seconds = [self._call(run, self.feeds[index % len(self.feeds)]) for index in range(count)]
            last.append(seconds[-1])
            self._pause()
        return last

    def time_all(
        self, rounds: int, blocks: Sequence[Sequence[int]], max_seconds: float | None
    ) -> Mapping[str, Seconds]:
        names = tuple(self.contestants)
        calls = {name: np.full((rounds, len(self.feeds)), np.nan) for name in names}
        start = self.clock.now()
        steps = tuple(_steps(rounds, len(blocks)))
        for done, (round_index, block_index) in enumerate(steps):
            if done and max_seconds is not None and self.clock.now() - start >= max_seconds:
                break
            # Both indices count, so that a block does not meet the same order in every round.
            for name in order_of_step(names, round_index + block_index):
                self._time_block(self.contestants[name], blocks[block_index], calls[name][round_index])
            self.progress.step(done + 1, len(steps), "timing")
        return {name: times[np.isfinite(times).any(axis=1)] for name, times in calls.items()}

    def _time_block(self, run: Contestant, block: Sequence[int], times: Seconds) -> None:
        for index in range(self.discard):
            run(self.feeds[block[index % len(block)]])
        for feed in block:
            times[feed] = self._call(run, self.feeds[feed])
        self._pause()

    def _pause(self) -> None:
        if len(self.contestants) == 1:
            return  # alone there is nobody to disturb
        clock = self.clock
        for _ in range(round(self.max_pause_seconds / PAUSE_STEP_SECONDS)):
            began, used = clock.now(), clock.processor()
            clock.sleep(PAUSE_STEP_SECONDS)
            if clock.processor() - used <= ASLEEP * (clock.now() - began):
                return

    def _call(self, run: Contestant, feed: Feeds) -> float:
        start = self.clock.now()
        run(feed)
        return max(self.clock.now() - start, TICK_SECONDS)


def _steps(rounds: int, blocks: int) -> Iterator[tuple[int, int]]:
    return ((round_index, block) for round_index in range(rounds) for block in range(blocks))


def _blocks(feeds: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Feeds dealt out like cards: the first blocks alone are an even sample of all feeds."""
    count = -(-feeds // size)
    return tuple(tuple(range(first, feeds, count)) for first in range(count))


def _block_size(fastest_seconds: float, slowest_seconds: float) -> int:
    most = min(MAX_BLOCK, round(MAX_BLOCK_SECONDS / slowest_seconds))
    return max(MIN_BLOCK, min(most, round(BLOCK_SECONDS / fastest_seconds)))


def _notes(timing: Timing, load: float | None) -> tuple[str, ...]:
    notes: list[str] = []
    if load is not None and load > BUSY:
        notes.append(f"the machine was busy when timing began (load {load:.1f} per core)")
    noise = timing.noise
    if noise is not None and noise > NOISY:
        notes.append(f"noisy: one input's time varies by {noise:.0%} between rounds")
    reached, wanted = len(timing.feed_medians), timing.calls.shape[1]
    if reached < wanted:
        notes.append(f"time was up: {reached} of {wanted} inputs were timed")
    return tuple(notes)


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    was_on = gc.isenabled()
    gc.collect(1)  # old objects take a tenth of a second to look through and rarely are garbage
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
