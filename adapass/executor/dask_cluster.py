"""Items on the workers of a Dask cluster that the user runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar

from adapass.errors import UsageError
from adapass.executor.call import run_packed
from adapass.executor.cluster_check import check_cluster, check_versions
from adapass.executor.dask_run import DaskRun
from adapass.executor.protocol import Closing, check_function
from adapass.executor.results import Report, Results
from adapass.executor.shared import Shared, freeze, pack_call

T = TypeVar("T")
R = TypeVar("R")

RETRIES: Final = 3
CONNECT_SECONDS: Final = 8.0


class DaskCluster(Closing):
    """The scheduler at ``address``, such as ``tcp://10.0.0.5:8786``.

    At a deadline, and after an error, what waits is cancelled; a call that runs on a worker of the
    cluster is let run, because Dask cannot stop a thread, and its result is dropped.

    Raises:
        UsageError: Dask is not installed, nobody answers there, there is no worker, or a worker has
            other versions than this process.

    """

    def __init__(self, address: str) -> None:
        self._client = _connect(address)
        self._shared: dict[str, Any] = {}
        self._closed = False
        try:
            self._versions = check_cluster(self._client, address)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """The worker processes there are now."""
        self._check_open()
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        report: Report | None = None,
        each: Callable[[int, R], None] | None = None,
        deadline: float | None = None,
    ) -> list[R]:
        check_function(function)
        self._check_open()
        if not items:
            return []
        packed = [pack_call(function, item, i, self._shared.__contains__) for i, item in enumerate(items)]
        results = Results[R](len(items), report, each, deadline)
        # A list: the client forgets, and the cluster cancels, what nobody holds.
        futures = [self._submit(data, names) for data, names in packed]
        try:
            return DaskRun(self._client, futures, results).finish()
        except BaseException:
            with contextlib.suppress(OSError):  # the scheduler is gone, and its tasks with it
                self._client.cancel(futures, force=True)
            raise

    def share(self, value: T) -> Shared[T]:
        self._check_open()
        name, data = freeze(value)
        if name not in self._shared:
            # A task that returns its argument, not scattered data: the scheduler can make it again
            # when the worker that holds it dies. It warns that the argument is large, as it must be.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
                self._shared[name] = self._client.submit(itself, data, pure=False, retries=RETRIES)
        return Shared(name, lambda: value)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shared.clear()
            self._client.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this executor is closed; open another one")

    def _submit(self, data: bytes, names: frozenset[str]) -> Any:
        shared = {name: self._shared[name] for name in sorted(names)}
        return self._client.submit(run_remotely, data, shared, self._versions, pure=False, retries=RETRIES)


def itself(data: bytes) -> bytes:
    """Runs on a worker: keeps the bytes of a shared value in the memory of the cluster."""
    return data


def run_remotely(data: bytes, shared: Mapping[str, bytes], versions: Mapping[str, str]) -> bytes:
    """Runs on a worker. A worker that joined after the check of the cluster is checked here."""
    check_versions(versions)
    return run_packed(data, shared.__getitem__)


def _connect(address: str) -> Any:
    try:
        distributed: Any = import_module("distributed")  # its client is untyped in the parts used here
    except ImportError as error:
        raise UsageError(
            f"a scheduler ('{address}') needs Dask, which is not installed; pip install 'adapass[dask]'"
        ) from error
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at '{address}' ({type(error).__name__}: {error}); "
            "start one with `dask scheduler` and give the address it prints"
        ) from error
