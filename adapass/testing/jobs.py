"""Small jobs for executors: what can happen in a worker, as functions that a worker finds by name."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapass.errors import BudgetError, DataError
from adapass.executor.shared import Shared

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """An item with a shared matrix in it."""

    matrix: Shared[npt.NDArray[np.float32]]
    index: int


@dataclass(frozen=True)
class Nap:
    """Sleep, after leaving the number of the process in ``folder``."""

    folder: Path
    seconds: float


class StubbornError(Exception):
    """Pickles, and cannot be rebuilt from what was pickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def square(number: int) -> int:
    return number * number


def process(item: object) -> int:
    del item
    return os.getpid()


def product(seed: int) -> bytes:
    """A matrix product whose last bits depend on the number of threads."""
    matrix = np.random.default_rng(seed).standard_normal((257, 311)).astype(np.float32)
    return (matrix @ matrix.T).tobytes()


def most_threads(item: object) -> int:
    """The largest number of threads that a loaded numeric library would use."""
    del item
    threadpoolctl: Any = import_module("threadpoolctl")  # ships no types
    return max(int(library["num_threads"]) for library in threadpoolctl.threadpool_info())


def row_sum(item: Row) -> float:
    return float(item.matrix.get()[item.index].sum())


def nap(item: Nap) -> int:
    (item.folder / str(os.getpid())).touch()
    time.sleep(item.seconds)
    return os.getpid()


def nap_beside_child(item: Nap) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({item.seconds})"])
    (item.folder / str(child.pid)).touch()
    nap(item)


def die(item: object) -> None:
    del item
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path) -> str:
    """Die at the first attempt, which leaves ``marker``; a missing folder means: never die."""
    if marker.parent.is_dir() and not marker.exists():
        marker.touch()
        die(marker)
    return marker.name


def die_twice(folder: Path) -> int:
    """Die at two attempts; at the third, how many calls of ``stay_in`` run at the same time."""
    attempts = [folder / "first", folder / "second"]
    for attempt in attempts:
        if not attempt.exists():
            attempt.touch()
            die(attempt)
    return len(list(folder.glob("in-*")))


def stay_in(folder: Path) -> int:
    """Work for a while, with a file in ``folder`` meanwhile."""
    sign = folder / f"in-{os.getpid()}"
    sign.touch()
    time.sleep(0.4)
    sign.unlink()
    return 0


def die_twice_or_stay_in(item: tuple[str, Path]) -> int:
    kind, folder = item
    return die_twice(folder) if kind == "die" else stay_in(folder)


def complain(text: str) -> str:
    """Say it as a log record, as a debug record, as a warning and on standard output."""
    logger.warning("logged %s", text)
    logger.debug("unimportant %s", text)
    warnings.warn(f"warned {text}", stacklevel=1)
    sys.stdout.write(f"printed {text}\n")
    return text


def fail(kind: str) -> str:
    """Raise an error of the named kind; any other word is handed back."""
    if kind == "data":
        raise DataError("column 'x' is missing")
    if kind == "noted":
        error = BudgetError("too slow")
        error.add_note("measured twice")
        raise error
    if kind == "stubborn":
        raise StubbornError(1, 2)
    if kind == "late":
        time.sleep(0.5)
        raise ValueError("late")
    return kind


def nap_or_fail(item: Nap | str) -> int | str:
    return fail(item) if isinstance(item, str) else nap(item)


def make_function(item: object) -> object:
    """A result that cannot be sent back."""
    del item
    return lambda: None
