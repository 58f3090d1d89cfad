"""Contestants against a pretended clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from adapass.budgeted import Feeds
from adapass.cost.measure import Clock


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
