"""Independent calls: in this process, on local processes or on a Dask cluster, with the same results."""

from __future__ import annotations

from adapass.errors import TimeUpError, WorkerError
from adapass.executor.dask_cluster import DaskCluster
from adapass.executor.in_process import InProcess
from adapass.executor.local_processes import LocalProcesses
from adapass.executor.opening import open_executor
from adapass.executor.protocol import Executor
from adapass.executor.shared import Shared

__all__ = [
    "DaskCluster",
    "Executor",
    "InProcess",
    "LocalProcesses",
    "Shared",
    "TimeUpError",
    "WorkerError",
    "open_executor",
]
