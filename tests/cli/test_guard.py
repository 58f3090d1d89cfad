from __future__ import annotations

import logging

import pytest
import typer

from adapass.cli.guard import guarded
from adapass.errors import (
    AdapassError,
    ArtifactError,
    BudgetError,
    DataError,
    TargetError,
    VerificationError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("d"), 2),
        (ArtifactError("a"), 2),
        (BudgetError("b"), 3),
        (VerificationError("v"), 4),
        (TargetError("t"), 5),
        (AdapassError("x"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("z"), 1),
    ],
)
def test_every_exception_has_its_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as left:
        guarded(command)()

    captured = capsys.readouterr()
    assert left.value.exit_code == code
    assert captured.err.startswith("adapass: ")
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_bug_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(typer.Exit):
        guarded(command)()

    assert "ZeroDivisionError: by zero; this is a bug in adapass: please report it" in capsys.readouterr().err


def test_an_exit_passes_through() -> None:
    def command() -> None:
        raise typer.Exit(3)

    with pytest.raises(typer.Exit) as left:
        guarded(command)()

    assert left.value.exit_code == 3


@pytest.mark.parametrize(
    ("quiet", "verbose", "level"),
    [
        (0, 0, logging.WARNING),
        (1, 0, logging.ERROR),
        (2, 0, logging.ERROR),
        (0, 1, logging.INFO),
        (0, 2, logging.DEBUG),
    ],
)
def test_quiet_and_verbose_set_the_level_of_the_log(quiet: int, verbose: int, level: int) -> None:
    def command(quiet: int, verbose: int) -> None:
        del quiet, verbose

    guarded(command)(quiet=quiet, verbose=verbose)

    assert logging.getLogger("adapass").level == level


@pytest.fixture(autouse=True)
def _restored_logger() -> object:  # pyright: ignore[reportUnusedFunction]
    logger = logging.getLogger("adapass")
    before = (logger.handlers, logger.propagate, logger.level)
    yield
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
