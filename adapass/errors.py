"""Every error adapass raises on purpose.

    AdapassError
    +-- InvalidInputError          bad model, data, option or recipe          exit 2
    |   +-- UsageError             an option or argument makes no sense
    |   +-- ModelError             a model file that cannot be read or is not valid ONNX
    |   +-- DataError              calibration or evaluation data that does not fit the model
    |   +-- RecipeError            a recipe or pipeline text that does not parse
    |   +-- ArtifactError          an artifact that is damaged, incomplete or too new
    +-- BudgetError                no result within the budget                exit 3
    +-- VerificationError          a rewrite changed what it must not change  exit 4
    +-- TargetError                target unknown or not available            exit 5
    +-- TimeUpError                a deadline passed before all was done      exit 3
    +-- WorkerError                worker processes died on the same item     exit 1

Messages name the thing at fault, the value found and the value expected, and end with what the
user can do. Everything else that escapes is a bug (exit 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes of the command line."""

    OK = 0
    INTERNAL = 1
    INVALID_INPUT = 2
    BUDGET_NOT_REACHABLE = 3
    VERIFICATION_FAILED = 4
    TARGET_UNAVAILABLE = 5
    INTERRUPTED = 130


class AdapassError(Exception):
    """Base of all errors a user can act on."""

    exit_code: ExitCode = ExitCode.INTERNAL

    def __reduce__(self) -> tuple[object, ...]:
        # Python rebuilds an exception by calling its class with `args`; a class whose constructor
        # takes something else than its message could not leave a worker process that way.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[AdapassError], args: tuple[object, ...], state: dict[str, object]) -> AdapassError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidInputError(AdapassError):
    """Something the user handed over is wrong."""

    exit_code = ExitCode.INVALID_INPUT


class UsageError(InvalidInputError):
    """An option or argument is unknown, contradictory or out of range."""


class ModelError(InvalidInputError):
    """A model cannot be read, is not valid ONNX, or is unsafe to open."""


class DataError(InvalidInputError):
    """Data is missing, malformed, or does not fit the model's inputs."""


class RecipeError(InvalidInputError):
    """A recipe or a pipeline text does not parse, or names something unknown."""


class ArtifactError(InvalidInputError):
    """An artifact is damaged, incomplete, or written by a newer adapass."""


class BudgetError(AdapassError):
    """No result within the quality or latency budget; the original is handed back."""

    exit_code = ExitCode.BUDGET_NOT_REACHABLE


class VerificationError(AdapassError):
    """A rewrite broke the structure, the shapes or the numbers of the graph."""

    exit_code = ExitCode.VERIFICATION_FAILED


class TargetError(AdapassError):
    """A target is unknown, or what it needs is not on this machine."""

    exit_code = ExitCode.TARGET_UNAVAILABLE


class TimeUpError(AdapassError):
    """A deadline passed. ``done`` holds the results there are, by the index of their item."""

    exit_code = ExitCode.BUDGET_NOT_REACHABLE

    def __init__(self, message: str, done: Mapping[int, object] | None = None) -> None:
        super().__init__(message)
        self.done = dict(done or {})


class WorkerError(AdapassError):
    """A worker process died again and again on one item, or what it did cannot be brought back."""
