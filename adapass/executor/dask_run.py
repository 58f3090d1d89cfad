"""One ``map`` on a Dask cluster: what came back, from whom, and what failed."""

from __future__ import annotations

import pickle
from asyncio import CancelledError as LoopCancelledError
from collections.abc import Sequence
from concurrent.futures import CancelledError
from importlib import import_module
from typing import Any, Generic, TypeVar

from adapass.errors import WorkerError
from adapass.executor.call import Outcome
from adapass.executor.results import Results

R = TypeVar("R")


class DaskRun(Generic[R]):
    """Collects futures of ``run_remotely`` as they finish; the scheduler runs again what dead workers had."""

    def __init__(self, client: Any, futures: Sequence[Any], results: Results[R]) -> None:
        self._client = client
        self._futures = futures
        self._results = results
        self._index = {future.key: index for index, future in enumerate(futures)}

    def finish(self) -> list[R]:
        """Wait for everything; see ``Executor.map`` for what is raised."""
        distributed: Any = import_module("distributed")
        left = self._results.seconds_left
        completed = distributed.as_completed(self._futures, loop=self._client.loop, timeout=left)
        while not self._results.complete:
            self._results.check_time()
            try:
                batch = completed.next_batch()
            except TimeoutError:  # the deadline, or a few milliseconds before it by another clock
                continue
            self._take(batch)
        return self._results.in_order

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
            outcome: Outcome = pickle.loads(future.result())
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
