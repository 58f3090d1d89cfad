"""The door to TVM: whether it is installed, its modules, and the threads it may use.

TVM ships no types, so its modules are ``Any`` behind this file. The thread pool belongs to the
process; :func:`use_threads` is the only place that sizes it.
"""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import suppress
from ctypes import CDLL, RTLD_GLOBAL
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from adapass.errors import UsageError

MISSING: Final = "TVM is not installed: pip install 'adapass[tvm]'"
FFI: Final = "0.1.14.post1"
"""Newer versions of apache-tvm-ffi crash the process as soon as anything of the IR is stored."""
_RUNTIMES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
_KEEP_CORES = 1
"""TVM's ``kBig`` of ``config_threadpool``: the workers stay where the system puts them."""
RUNTIME_VARIABLE: Final = "ADAPASS_TVM_RUNTIME"
"""Names the folder of the small runtime where the whole TVM, 300 MB of it, is not installed."""
_asked = threading.local()


def missing() -> str | None:
    """``None`` when enough of TVM is installed to run what was built."""
    if not find_spec("tvm_ffi") or not (os.environ.get(RUNTIME_VARIABLE) or find_spec("tvm")):
        return MISSING
    with suppress(PackageNotFoundError):
        if (found := version("apache-tvm-ffi")) != FFI:
            return f"apache-tvm-ffi is {found}, expected {FFI}: pip install 'adapass[tvm]'"
    return None


@cache
def compiler(module: str = "tvm") -> Any:
    """A module of the whole TVM, compiler included.

    Raises:
        UsageError: TVM is not installed.

    """
    if (why := missing()) is not None or not find_spec("tvm"):
        raise UsageError(why or MISSING)
    _no_pinning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TVM's own imports use deprecated names
        return import_module(module)


@cache
def runtime() -> Any:
    """``tvm_ffi`` with the small runtime loaded: what runs an artifact, without the compiler.

    Raises:
        UsageError: TVM is not installed, or the folder that the user names holds no runtime.

    """
    if (why := missing()) is not None:
        raise UsageError(why)
    _no_pinning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ffi = import_module("tvm_ffi")
    folder = runtime_folder()
    for name in _RUNTIMES:
        try:
            CDLL(str(folder / name), RTLD_GLOBAL)
        except OSError as error:
            raise UsageError(f"TVM's runtime cannot be loaded from {folder}: {error}") from error
    return ffi


def runtime_folder() -> Path:
    """Where the libraries of the small runtime lie.

    Raises:
        UsageError: TVM is not installed.

    """
    if given := os.environ.get(RUNTIME_VARIABLE):
        return Path(given).resolve()
    spec = find_spec("tvm")
    if spec is None or spec.origin is None:
        raise UsageError(MISSING)
    return Path(spec.origin).parent / "lib"


def use_threads(count: int) -> None:
    """Let kernels called from this thread use at most ``count`` threads, this one included."""
    if getattr(_asked, "count", None) == count:
        return
    runtime().get_global_func("runtime.config_threadpool")(_KEEP_CORES, count)
    _asked.count = count


def _no_pinning() -> None:
    """Read by TVM when its pool starts. Pinned workers of two runtimes would share cores."""
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
