"""How a time limit is divided: the search stops early enough for the race, the proof and the comparison.

Every later step gets a share of what is then left, and does as much as fits: fewer finalists, fewer steps of
the certified path, fewer rounds of timing. What cannot fit at all is not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from adapass.search.deadline import Deadline

SEARCH_SHARE = 0.6
BUILD_SHARE = 0.15
"""Of what is left after the search."""
RACE_SHARE = 0.2
"""Of what is left after building the finalists."""
PROOF_SHARE = 0.6
"""Of what is left after the race."""
COMPARE_SHARE = 0.6
"""Of what is left after the proof."""
SLOWEST = 1.5
"""Allowance for runs that take longer than they were measured to."""


@dataclass(frozen=True, slots=True)
class TimePlan:
    """The end of a run on the monotonic clock; ``None``: no limit."""

    started: float
    limit_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def seconds_left(self) -> float | None:
        return None if self.limit_seconds is None else self.started + self.limit_seconds - self.clock()

    @property
    def search(self) -> Deadline:
        """When the search stops; it is told once, at its beginning."""
        if self.limit_seconds is None:
            return Deadline(None, self.clock)
        return Deadline(self.started + SEARCH_SHARE * self.limit_seconds, self.clock)

    @property
    def building(self) -> Deadline:
        """When no further finalist is built."""
        left = self.seconds_left
        return Deadline(None if left is None else self.clock() + BUILD_SHARE * left, self.clock)

    @property
    def proof(self) -> Deadline:
        """When no further step of the certified path is begun."""
        left = self.seconds_left
        return Deadline(None if left is None else self.clock() + PROOF_SHARE * left, self.clock)

    def race_seconds(self) -> float | None:
        return self._share(RACE_SHARE)

    def compare_seconds(self) -> float | None:
        return self._share(COMPARE_SHARE)

    def proof_steps(self, samples: int, seconds_each: float, most: int) -> int:
        """How many runs over ``samples`` certify samples fit, at most ``most``; 0: not even one."""
        left = self._share(PROOF_SHARE)
        if left is None:
            return most
        return max(0, min(most, int(left / (SLOWEST * samples * max(seconds_each, 1e-9)))))

    def _share(self, part: float) -> float | None:
        left = self.seconds_left
        return None if left is None else max(0.0, part * left)
