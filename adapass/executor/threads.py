"""One BLAS and one OpenMP thread: sums taken by another number of threads differ in their last bits."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

threadpoolctl: Any = import_module("threadpoolctl")  # ships no types

ONE_THREAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "BLIS_NUM_THREADS": "1",
        "VECLIB_MAXIMUM_THREADS": "1",
    }
)
"""What the libraries read when they are loaded."""

# The limits belong to the process: two calls that overlap would restore each other's.
_ONE_CALL_AT_A_TIME: Final = threading.RLock()


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Hold every loaded library to one thread; the former numbers come back afterwards.

    One call at a time in a process: a second thread waits here.
    """
    # Both bring an OpenBLAS of their own, which can only be limited once it is loaded.
    import_module("numpy")
    import_module("scipy.linalg")
    with _ONE_CALL_AT_A_TIME, _environment(ONE_THREAD), threadpoolctl.threadpool_limits(1):
        yield


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Generator[None, None, None]:
    # For libraries that the call itself is the first to load (torch, mostly).
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            _put_back(name, value)


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
