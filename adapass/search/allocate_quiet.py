"""Keep a stray line of HiGHS out of standard output, which belongs to the results.

HiGHS 1.12, which SciPy 1.17 carries, prints a debugging line whatever its options say (HiGHS issue 2783,
fixed later). It comes from C, so the file descriptor has to be caught, and C's own buffer emptied into it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Generator

STRAY = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();"
STDOUT = 1
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def without_stray_lines() -> Generator[None, None, None]:
    """Hold standard output back meanwhile; then pass on all of it but the stray lines.

    What other threads print meanwhile comes late, and is not lost.
    """
    with _one_at_a_time, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(STDOUT)
        except OSError:
            # A process without standard output has nothing to keep clean.
            kept = None
        if kept is not None:
            caught = stack.enter_context(tempfile.TemporaryFile())
            _flush()
            os.dup2(caught.fileno(), STDOUT)
            stack.callback(_give_back, kept, caught.fileno())
        yield


def _give_back(kept: int, caught: int) -> None:
    _flush()
    os.dup2(kept, STDOUT)
    os.close(kept)
    os.lseek(caught, 0, os.SEEK_SET)
    with open(caught, "rb", closefd=False) as file:
        rest = b"".join(line for line in file if line.strip() != STRAY)
    while rest:
        rest = rest[os.write(STDOUT, rest) :]


def _flush() -> None:
    """Empty the buffers of Python and of C."""
    with contextlib.suppress(ValueError, AttributeError):
        # Standard output may be closed, or None under pythonw.
        sys.stdout.flush()
    if sys.platform != "win32":
        ctypes.CDLL(None).fflush(None)
