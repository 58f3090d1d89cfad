"""One call in a worker, and how its result, its error and its log come back."""

from __future__ import annotations

import logging
import pickle
import threading
import traceback
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, TextIO

from adapass.errors import WorkerError
from adapass.executor.shared import Resolve, unpack
from adapass.executor.threads import one_thread

_LOG_FIELDS: Final = (
    "name",
    "levelno",
    "levelname",
    "pathname",
    "lineno",
    "funcName",
    "created",
)


class RemoteTraceback(Exception):  # noqa: N818  (never raised: it stands in for frames of another process)
    """The cause of an exception that came from a worker: where it was raised there, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way to the caller."""

    error: bytes
    trace: str

    def throw(self) -> NoReturn:
        error: Exception = pickle.loads(self.error)
        raise error from RemoteTraceback(self.trace)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result or a failure, and the log records of level WARNING and above."""

    value: object = None
    failure: Failure | None = None
    log: tuple[Mapping[str, object], ...] = ()

    def replay_log(self) -> None:
        """Hand the worker's records to the loggers of the same names here."""
        for fields in self.log:
            record = logging.makeLogRecord(fields)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)


def run_packed(data: bytes, resolve: Resolve) -> bytes:
    """Run what ``pack`` packed; the outcome, pickled. Never raises an ``Exception``."""
    collector = _Collector()
    try:
        with one_thread(), _collected(collector):
            function, item = unpack(data, resolve)
            value = function(item)
        return pickle.dumps(Outcome(value, log=tuple(collector.records)), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # foreign code: whatever it raises is raised again in the caller
        return pickle.dumps(Outcome(failure=describe(error), log=tuple(collector.records)))


def describe(error: Exception) -> Failure:
    """The exception itself where it survives pickling, else its name and text in a WorkerError."""
    return Failure(_pickled(error), "".join(traceback.format_exception(error)))


def _pickled(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error)
        again: object = pickle.loads(data)
        survives = type(again) is type(error) and str(again) == str(error)
    except Exception:  # noqa: BLE001, RUF100  (a foreign exception may fail to pickle in any way it likes)
        survives, data = False, b""
    if survives:
        return data
    kind = type(error)
    return pickle.dumps(WorkerError(f"{kind.__module__}.{kind.__qualname__} in a worker: {error}"))


class _Collector(logging.Handler):
    """Keeps the records of the thread that made it, as plain values."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[Mapping[str, object]] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        # Formatted here: arguments and tracebacks may not survive the journey.
        fields = {name: getattr(record, name) for name in _LOG_FIELDS}
        self.records.append(fields | {"msg": self.format(record)})


@contextmanager
def _collected(collector: _Collector) -> Generator[None, None, None]:
    root, show = logging.getLogger(), warnings.showwarning
    root.addHandler(collector)
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        root.removeHandler(collector)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text)
