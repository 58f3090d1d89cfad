"""One item after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from adapass.executor.protocol import Closing
from adapass.executor.results import Report, Results
from adapass.executor.shared import Shared
from adapass.executor.threads import one_thread

T = TypeVar("T")
R = TypeVar("R")


class InProcess(Closing):
    """No processes, nothing copied. The deadline is looked at between items: a call that runs is let run."""

    @property
    def workers(self) -> int:
        return 1

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        report: Report | None = None,
        each: Callable[[int, R], None] | None = None,
        deadline: float | None = None,
    ) -> list[R]:
        results = Results[R](len(items), report, each, deadline)
        for index, item in enumerate(items):
            results.check_time()
            with one_thread():
                value = function(item)
            results.add(index, value)
        return results.in_order

    def share(self, value: T) -> Shared[T]:
        return Shared("in-process", partial(_itself, value))

    def close(self) -> None:
        """Nothing is held."""


def _itself(value: T) -> T:
    return value
