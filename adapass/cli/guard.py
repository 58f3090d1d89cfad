"""From an exception to a message on stderr and an exit code."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import typer

from adapass.errors import AdapassError, ExitCode

P = ParamSpec("P")

TRACEBACK_VERBOSITY = 2
_BUG = "this is a bug in adapass: please report it with the command and the output of -vv"


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command with logging set up from its -q and -v, and its exceptions turned into exit codes."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        verbosity = _number(kwargs.get("verbose")) - _number(kwargs.get("quiet"))
        _set_up_logging(verbosity)
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _leave("interrupted", ExitCode.INTERRUPTED, verbosity)
        except AdapassError as error:
            _leave(str(error), error.exit_code, verbosity)
        except Exception as error:  # the outermost border: a bug must still end in a message and a code
            _leave(f"{type(error).__name__}: {error}; {_BUG}", ExitCode.INTERNAL, verbosity)

    return run


def _leave(message: str, code: ExitCode, verbosity: int) -> NoReturn:
    if verbosity >= TRACEBACK_VERBOSITY:
        traceback.print_exc(file=sys.stderr)
    sys.stderr.write(f"adapass: {message}\n")
    raise typer.Exit(int(code))


def _number(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


def _set_up_logging(verbosity: int) -> None:
    import logging

    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("adapass")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(levels.get(max(-1, verbosity), logging.DEBUG))
