"""One ``map`` on a Dask cluster: what came back, from whom, and what failed."""

from __future__ import annotations

import pickle
import queue
import time
from asyncio import CancelledError as LoopCancelledError
from collections.abc import Sequence
from concurrent.futures import CancelledError
from importlib import import_module
from typing import Any, Final, Generic, TypeVar

from adapass.errors import WorkerError
from adapass.executor.call import Outcome
from adapass.executor.results import Results

R = TypeVar("R")

NO_WORKERS_SECONDS: Final = 60.0
"""How long a cluster may be without workers before its work is given up."""
_LOOK_SECONDS: Final = 2.0


class DaskRun(Generic[R]):
    """Collects futures of ``run_remotely`` as they finish; the scheduler runs again what dead workers had."""

    def __init__(self, client: Any, futures: Sequence[Any], results: Results[R]) -> None:
        self._client = client
        self._futures = futures
        self._results = results
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers_seen = time.monotonic()
        self._index = {future.key: index for index, future in enumerate(futures)}

    def finish(self) -> list[R]:
        """Wait for everything; see ``Executor.map`` for what is raised."""
        for future in self._futures:
            future.add_done_callback(self._finished.put)
        while not self._results.complete:
            self._results.check_time()
            if batch := self._next_batch():
                self._take(batch)
        return self._results.in_order

    def _next_batch(self) -> list[Any]:
        left = self._results.seconds_left
        wait = _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
        try:
            batch = [self._finished.get(timeout=wait)]
        except queue.Empty:
            self._check_workers()
            return []
        while not self._finished.empty():
            batch.append(self._finished.get())
        self._workers_seen = time.monotonic()
        return batch

    def _check_workers(self) -> None:
        # Dask waits for ever; and what starts workers gives up on one that dies while it starts.
        try:
            count = len(self._client.scheduler_info(n_workers=-1)["workers"])
        except OSError:
            count = 0
        if count:
            self._workers_seen = time.monotonic()
        if time.monotonic() - self._workers_seen > NO_WORKERS_SECONDS:
            raise WorkerError(
                f"the Dask cluster has had no workers for {NO_WORKERS_SECONDS:.0f} s, with "
                f"{len(self._results.done)} of {self._results.total} items done; start workers and run again"
            )

    def _take(self, batch: Sequence[Any]) -> None:
        outcomes = {self._index[future.key]: self._outcome(future) for future in batch}
        for outcome in outcomes.values():
            outcome.replay_log()
        failed = [index for index, outcome in outcomes.items() if outcome.failure is not None]
        if failed:
            failure = outcomes[min(failed)].failure
            assert failure is not None
            failure.throw()
        for index, outcome in outcomes.items():
            self._results.add(index, outcome.value)

    def _outcome(self, future: Any) -> Outcome:
        distributed: Any = import_module("distributed")
        index = self._index[future.key]
        try:
            outcome: Outcome = pickle.loads(future.result(timeout=self._results.seconds_left))
        except TimeoutError:  # its worker died with the result, which is being computed again
            self._results.check_time()
            raise
        except distributed.scheduler.KilledWorker as error:
            raise WorkerError(
                f"item {index} of {len(self._futures)} ended its Dask worker "
                f"{error.allowed_failures + 1} times: most likely memory "
                "ran out there; use fewer workers a machine, or smaller data"
            ) from error
        except (CancelledError, LoopCancelledError) as error:
            raise WorkerError(
                f"item {index} of {len(self._futures)} was lost: the Dask scheduler went away or dropped it "
                f"({error}); look at its log and run again"
            ) from error
        return outcome
