"""When the search has to stop. Long loops look at it; long single calls run where they can be killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adapass.executor import TimeUpError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; ``None`` never comes."""

    at: float | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def passed(self) -> bool:
        return self.at is not None and self.clock() >= self.at

    @property
    def seconds_left(self) -> float | None:
        return None if self.at is None else max(0.0, self.at - self.clock())

    def check(self) -> None:
        """Raises ``TimeUpError`` once it has passed."""
        if self.passed:
            raise TimeUpError("the time limit of the search was reached")

    def share(self, part: float) -> Deadline:
        """An earlier deadline: after ``part`` of the time that is left."""
        left = self.seconds_left
        return self if left is None else Deadline(self.clock() + part * left, self.clock)


NEVER: Final = Deadline()
