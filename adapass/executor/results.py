"""The results of one ``map`` as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from adapass.errors import TimeUpError

R = TypeVar("R")

Report = Callable[[int, int], None]
"""Told ``(done, total)`` in the calling thread whenever an item is finished."""


@dataclass
class Results(Generic[R]):
    """Collects by index, tells who wants to know, and knows when time is up."""

    total: int
    report: Report | None
    each: Callable[[int, R], None] | None
    deadline: float | None
    """A value of ``time.monotonic()``."""
    done: dict[int, R] = field(default_factory=dict[int, R])

    @property
    def complete(self) -> bool:
        return len(self.done) == self.total

    @property
    def in_order(self) -> list[R]:
        return [self.done[index] for index in range(self.total)]

    @property
    def seconds_left(self) -> float | None:
        """At least 0. ``None``: there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def add(self, index: int, value: object) -> None:
        result = cast("R", value)
        self.done[index] = result
        if self.each is not None:
            self.each(index, result)
        if self.report is not None:
            self.report(len(self.done), self.total)

    def check_time(self) -> None:
        """Raise TimeUpError, with the results so far, once the deadline has passed."""
        if self.seconds_left == 0:
            raise TimeUpError(
                f"the time limit passed with {len(self.done)} of {self.total} items done", self.done
            )
