"""What a worker started ends with it: compilers, mostly."""

from __future__ import annotations

import contextlib

import psutil


def kill_descendants(pid: int) -> None:
    """Kill every process that ``pid`` started, and theirs; not ``pid`` itself."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
