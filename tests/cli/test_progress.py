from __future__ import annotations

import io

import pytest

from adapass.cli.progress import LiveLine, PlainLines, duration, shown_progress
from adapass.progress import Silent


class Time:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_each_count_of_a_phase_has_its_own_estimate(time: Time) -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, time)

    lines.phase("search", 2, 6)
    time.now = 100.0
    lines.step(5, 5, "damage")
    time.now = 110.0
    lines.step(1, 3, "plans")

    assert stream.getvalue().splitlines()[-1] == "  2/6 search 1/3 plans (1 m 50 s, about 20 s left)"


def test_plain_lines_tell_phase_steps_time_estimate_and_best(time: Time) -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, time)

    lines.phase("search", 2, 6)
    time.now = 1.0
    lines.step(1, 10, "too soon for a line")
    time.now = 10.0
    lines.step(2, 10, "quantize")
    lines.best("0.40x at 0.2 points")

    assert stream.getvalue().splitlines() == [
        "2/6 search",
        "  2/6 search 2/10 quantize (10 s, about 40 s left)",
        "  best so far: 0.40x at 0.2 points",
    ]


def test_the_last_step_has_nothing_left(time: Time) -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, time)
    lines.phase("search", 1, 1)
    time.now = 65.0
    lines.step(4, 4)

    assert stream.getvalue().splitlines()[-1] == "  1/1 search 4/4 (1 m 05 s)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 m 00 s"), (3600, "1 h 00 m"), (7860, "2 h 11 m")]
)
def test_durations_are_rounded_for_reading(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_the_live_line_shows_markup_as_it_is_and_goes_away(terminal: Terminal, time: Time) -> None:
    line = LiveLine(terminal, time)
    line.phase("search", 1, 2)
    line.best("[bold]N[/bold]")
    line.finish()

    assert "[bold]N[/bold]" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")


def test_the_live_line_is_not_redrawn_for_every_step(terminal: Terminal, time: Time) -> None:
    line = LiveLine(terminal, time)
    line.phase("search", 1, 2)
    drawn = len(terminal.getvalue())
    for step in range(100):
        line.step(step, 1000)
    assert len(terminal.getvalue()) == drawn
    time.now = 1.0
    line.step(100, 1000)
    assert len(terminal.getvalue()) > drawn
    line.finish()


def test_what_is_shown_depends_on_where(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)

    with shown_progress(quiet=0) as progress:
        assert isinstance(progress, LiveLine)
    with shown_progress(quiet=1) as progress:
        assert isinstance(progress, Silent)


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())

    with shown_progress(quiet=0) as progress:
        assert isinstance(progress, PlainLines)
