"""Tables of measured regions: timed once, through the generator that will run them, then read from the cache.

Every measurement is stored as soon as it is taken, so an interrupted search goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from adapass.budgeted import Feeds
from adapass.cache import Cache, Json
from adapass.cost.measure import REAL_CLOCK, Clock, Contestant, interleaved
from adapass.cost.model import Cost, Trust
from adapass.generator import Options, Runner

KIND: Final = "region-latency"
GROUP_KIND: Final = "group-latency"
ROUNDS: Final = 5
WARMUP: Final = 3
MIN_FEEDS: Final = 8
MIN_GROUP_FEEDS: Final = 48
"""A contestant comes back from a pause to cold caches; short blocks would time little else."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegionKey:
    """Everything the latency of a region depends on. Equal keys share one measurement."""

    content: str
    """Digest of the region's structure."""
    generator: str
    target: str
    machine: str
    """``Fingerprint.key``: the machine and the versions of its libraries."""
    threads: int
    shapes: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]
    """For each feed the shapes of its inputs, by name; see ``shapes_of``."""
    options: Options = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self) -> Json:
        names = ("content", "generator", "target", "machine", "threads", "shapes")
        options: dict[str, Json] = dict(self.options)
        return {**{name: getattr(self, name) for name in names}, "options": options}


def _repeated(feeds: Sequence[Feeds], least: int) -> list[Feeds]:
    """At least so many feeds. Equal ones stand together: blocks take every k-th, and get an even mix so."""
    times = max(1, -(-least // len(feeds)))
    return [feed for feed in feeds for _ in range(times)]


def shapes_of(feeds: Sequence[Feeds]) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]:
    """The mix of shapes: of the inputs of a plain region, latency depends on nothing else."""
    return tuple(tuple((name, tuple(feed[name].shape)) for name in sorted(feed)) for feed in feeds)


@dataclass(frozen=True)
class RegionTable:
    """Latency of regions on this machine, backed by the on-disk cache."""

    cache: Cache
    max_seconds: float | None = None
    """Time limit for one measurement, not for the table."""
    clock: Clock = REAL_CLOCK

    def get(self, key: RegionKey) -> Cost | None:
        """The stored cost, or ``None`` when the region was never measured here."""
        entry = self.cache.get(KIND, key.to_json())
        if not isinstance(entry, Mapping):
            return None
        seconds = entry.get("seconds")
        if not isinstance(seconds, float) or not 0.0 < seconds < float("inf"):
            return None
        return Cost(seconds, Trust.MEASURED)

    def get_or_measure(
        self, key: RegionKey, open_runner: Callable[[], Runner], feeds: Sequence[Feeds]
    ) -> Cost:
        """The mean latency of a call over ``feeds``; a runner is opened and timed only when it is unknown."""
        known = self.get(key)
        if known is not None:
            return known
        with self.cache.locked("measuring"):
            # Another process may have measured it while this one waited.
            return self.get(key) or self._measure(key, open_runner, feeds)

    def get_group(self, key: RegionKey) -> Mapping[str, float] | None:
        """Mean seconds of contestants that were timed in turns, by name."""
        entry = self.cache.get(GROUP_KIND, key.to_json())
        if not isinstance(entry, Mapping):
            return None
        found = {name: seconds for name, seconds in entry.items() if isinstance(seconds, float)}
        return MappingProxyType(found) if len(found) == len(entry) > 0 else None

    def measure_group(
        self, key: RegionKey, contestants: Mapping[str, Contestant], feeds: Sequence[Feeds]
    ) -> Mapping[str, float]:
        """Time ``contestants`` in turns on ``feeds`` and store the means."""
        repeated = _repeated(feeds, MIN_GROUP_FEEDS)
        with self.cache.locked("measuring"):
            timings = interleaved(
                contestants,
                repeated,
                rounds=ROUNDS,
                warmup=WARMUP,
                discard=WARMUP,
                max_seconds=self.max_seconds,
                clock=self.clock,
            )
        found = {name: timing.mean for name, timing in timings.items()}
        self.cache.put(GROUP_KIND, key.to_json(), found)
        return MappingProxyType(found)

    def _measure(self, key: RegionKey, open_runner: Callable[[], Runner], feeds: Sequence[Feeds]) -> Cost:
        # A block needs some calls to be worth its discarded first one.
        repeated = _repeated(feeds, MIN_FEEDS)
        runner = open_runner()
        try:
            timing = interleaved(
                {"region": runner.run},
                repeated,
                rounds=ROUNDS,
                warmup=WARMUP,
                max_seconds=self.max_seconds,
                clock=self.clock,
            )["region"]
        finally:
            runner.close()
        for note in timing.notes:
            logger.info("measuring %s: %s", key.content, note)
        self.cache.put(
            KIND, key.to_json(), {"seconds": timing.mean, "calls": timing.n, "notes": timing.notes}
        )
        return Cost(timing.mean, Trust.MEASURED)
