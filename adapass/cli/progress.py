"""Progress on stderr: a live line on a terminal, plain lines elsewhere.

The live line is redrawn only when work reports a step. A thread that redraws by itself would take
time from the cores that are being measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

from adapass.progress import Progress, Silent

LINE_SECONDS = 5.0
REDRAW_SECONDS = 0.1


@contextmanager
def shown_progress(quiet: int) -> Generator[Progress]:
    """The progress to hand to long work; the terminal is left clean whatever happens."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        line = LiveLine(sys.stderr)
        try:
            yield line
        finally:
            line.finish()
    else:
        yield PlainLines(sys.stderr)


class _Clocked:
    """Where the work is, and when it began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = self._counted_from = self._last = clock()
        self._phase = ""
        self._steps = (0, 0)

    def begin(self, name: str, index: int, total: int) -> str:
        self._counted_from = self._last = self._clock()
        self._steps = (0, 0)
        self._phase = f"{index}/{total} {name}"
        return self._phase

    def describe(self, done: int, total: int, note: str) -> str:
        """Phase, steps, time so far and an estimate of what these steps still take.

        A phase may count several things one after the other; each count has its own estimate.
        """
        now = self._clock()
        if total != self._steps[1] or done < self._steps[0]:
            self._counted_from = self._last
        self._steps, self._last = (done, total), now
        spent = now - self._counted_from
        left = f", about {duration(spent / done * (total - done))} left" if 0 < done < total else ""
        steps = f" {done}/{total}" if total else ""
        shown = f" {note}" if note else ""
        return f"{self._phase}{steps}{shown} ({duration(now - self._started)}{left})"

    def now(self) -> float:
        return self._clock()


def duration(seconds: float) -> str:
    """Rounded for reading: ``7 s``, ``3 m 05 s``, ``2 h 10 m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


class PlainLines:
    """A line per phase, per new best, and every few seconds within a phase."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._state = _Clocked(clock)
        self._written = float("-inf")

    def phase(self, name: str, index: int, total: int) -> None:
        self._write(self._state.begin(name, index, total))

    def step(self, done: int, total: int, note: str = "") -> None:
        if self._state.now() - self._written >= LINE_SECONDS:
            self._write("  " + self._state.describe(done, total, note))

    def best(self, text: str) -> None:
        self._write(f"  best so far: {text}")

    def _write(self, text: str) -> None:
        self._written = self._state.now()
        self._stream.write(text + "\n")
        self._stream.flush()


class LiveLine:
    """One line that is redrawn in place, with the best so far at its end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=stream), auto_refresh=False, transient=True)
        self._live.start()
        self._state = _Clocked(clock)
        self._text = self._best = ""
        self._drawn = float("-inf")

    def phase(self, name: str, index: int, total: int) -> None:
        self._text = self._state.begin(name, index, total)
        self._draw()

    def step(self, done: int, total: int, note: str = "") -> None:
        self._text = self._state.describe(done, total, note)
        if self._state.now() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def best(self, text: str) -> None:
        self._best = text
        self._draw()

    def finish(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        from rich.text import Text

        self._drawn = self._state.now()
        best = f"  best: {self._best}" if self._best else ""
        self._live.update(Text(self._text + best, no_wrap=True, overflow="ellipsis"), refresh=True)
