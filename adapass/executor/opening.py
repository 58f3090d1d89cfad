"""From the two options of the command line to an executor."""

from __future__ import annotations

from adapass.errors import UsageError
from adapass.executor.dask_cluster import DaskCluster
from adapass.executor.in_process import InProcess
from adapass.executor.local_processes import LocalProcesses
from adapass.executor.protocol import Executor


def open_executor(*, workers: int, scheduler: str | None) -> Executor:
    """The cluster at ``scheduler`` where one is given; else ``workers`` processes; with 0 this process.

    One worker is a process of its own: unlike this process, it can be killed at a deadline.

    Raises:
        UsageError: a negative number of workers, or a scheduler that cannot be used.

    """
    if workers < 0:
        raise UsageError(f"the number of workers is {workers}; expected 0 (this process) or more")
    if scheduler is not None:
        return DaskCluster(scheduler)
    return LocalProcesses(workers) if workers else InProcess()
