"""Open a library with TVM's small runtime and run it: 6 MB of it, no compiler.

The one border between arrays and machine code. The code reads what it is given where it lies and trusts
types, shapes and alignment, so everything is checked or copied here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from adapass.budgeted import Array
from adapass.codegen.runner import first_line
from adapass.codegen.tvm.library import runtime, use_threads
from adapass.codegen.tvm.plan import Library
from adapass.codegen.tvm.trust import require_trusted
from adapass.errors import ArtifactError, DataError

ALIGNMENT: Final = 64
"""Bytes; vectors are loaded aligned, and elsewhere end the process."""
_CPU, _FIRST, _POOLED = 1, 0, 2

Observe = Callable[[str, Sequence[Array]], None]
"""Called after each function that the virtual machine ran, with its name and what it was given."""


class TvmSession:
    """One library on one thread budget. Not thread safe."""

    def __init__(self, file: Path, library: Library, *, threads: int) -> None:
        """Check, load and initialise a library.

        Raises:
            ArtifactError: it is damaged or not trusted, or the runtime does not take it.
            UsageError: TVM is not installed.

        """
        require_trusted(file, library)
        self._library = library
        self._threads = threads
        try:
            module = runtime().load_module(str(file.resolve()))
            self._machine: Any = module["vm_load_executable"]()
            self._machine["vm_initialization"](_CPU, _FIRST, _POOLED)
            self._main: Any = self._machine["main"]
        except (RuntimeError, AttributeError, OSError, ValueError) as error:
            raise ArtifactError(f"{file} cannot be loaded: {first_line(error)}; build it again") from error

    def run(self, output_names: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]:
        """The outputs that are asked for, in that order; they are the caller's to keep.

        Raises:
            DataError: an input is empty, or an index points outside what it reads.

        """
        use_threads(self._threads)
        given = [_given(name, feeds[name]) for name in self._library.inputs]
        *values, site = self._main(*given)
        if wrong := int(np.from_dlpack(site)[0]):
            raise DataError(
                f"{self._library.sites[wrong - 1]} reads outside: an index or a length in the inputs is too"
                " large (or too far below zero) for the model"
            )
        found = dict(zip(self._library.outputs, values, strict=True))
        return [np.from_dlpack(found[name]) for name in output_names]

    def observe(self, tell: Observe | None) -> None:
        """Have ``tell`` called after every function; ``None`` ends it. For checks, not for speed."""

        def after(_: object, name: str, before: bool, __: object, *arguments: object) -> int:
            if not before and tell is not None:
                tell(name, _arrays(arguments))
            return 0

        self._machine["set_instrument"](runtime().convert(after) if tell is not None else None)


def _arrays(arguments: Sequence[object]) -> list[Array]:
    from_dlpack: Any = np.from_dlpack
    return [from_dlpack(each) for each in arguments if hasattr(each, "__dlpack__")]


def _given(name: str, array: Array) -> Any:
    """``array`` for TVM, copied when it is not in rows, not aligned, or read-only."""
    if array.size == 0:
        raise DataError(
            f"input '{name}' is empty ({list(array.shape)}); TVM's kernels need at least one entry"
        )
    flags = array.flags
    fits = flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0
    return runtime().from_dlpack(array if fits and array.dtype.isnative else _aligned(array))


def _aligned(array: Array) -> Array:
    """A copy in rows whose first number lies at a multiple of the alignment."""
    dtype = array.dtype.newbyteorder("=")
    memory = np.empty(array.size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    copy[...] = array
    return copy
