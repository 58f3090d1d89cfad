from __future__ import annotations

import pytest

from adapass.cli.options import numbers, seconds, words
from adapass.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3ms", 3e-3),
        ("250us", 2.5e-4),
        ("1.5s", 1.5),
        ("2", 2.0),
        (" 10 m ", 600.0),
        ("1h", 3600.0),
        (".5s", 0.5),
    ],
)
def test_reads_durations(text: str, expected: float) -> None:
    assert seconds(text, "--x") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "ms", "-1s", "0", "1 day", "1e3", "inf", "nan"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--x is"):
        seconds(text, "--x")


def test_no_duration_is_none() -> None:
    assert seconds(None, "--x") is None


def test_reads_numbers_once_each() -> None:
    assert numbers("1, 8,8,32", "--x") == (1, 8, 32)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "-1", "1.5", "one"])
def test_refuses_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--x is"):
        numbers(text, "--x")


def test_reads_names_repeated_or_separated() -> None:
    assert words(["a, b", "c"]) == ("a", "b", "c")
    assert words(None) == ()
