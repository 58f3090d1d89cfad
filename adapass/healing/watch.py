"""The clock of a healing run, and what it tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic

from adapass.progress import Progress, Silent
from adapass.twin.torch_import import torch


class Watch:
    """Counts from when it is made, plus what an interrupted run had used."""

    def __init__(
        self,
        progress: Progress | None = None,
        max_seconds: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._progress = Silent() if progress is None else progress
        self._clock = clock
        self._start = clock()
        self._phase_start = self._start
        self._limit = max_seconds

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def time_is_up(self) -> bool:
        return self._limit is not None and self.seconds >= self._limit

    def phase(self, name: str, index: int, total: int) -> None:
        self._phase_start = self._clock()
        self._progress.phase(name, index, total)

    def step(self, done: int, total: int) -> None:
        """With the time used and an estimate of what is left of the phase."""
        used = self._clock() - self._phase_start
        left = used / max(done, 1) * (total - done)
        if self._limit is not None:
            left = min(left, max(self._limit - self.seconds, 0.0))
        self._progress.step(done, total, f"{used:.0f} s, about {left:.0f} s left")

    def best(self, text: str) -> None:
        self._progress.best(text)


@contextmanager
def deterministic(threads: int) -> Generator[None]:
    """Torch on so many threads, with kernels that always add in the same order; its settings come back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
