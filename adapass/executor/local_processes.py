"""Items on processes of this machine."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from adapass.errors import UsageError
from adapass.executor.local_run import LocalRun
from adapass.executor.protocol import Closing, check_function
from adapass.executor.results import Report, Results
from adapass.executor.shared import Shared, freeze
from adapass.executor.shared_files import SharedFiles
from adapass.executor.worker_process import WorkerProcess

T = TypeVar("T")
R = TypeVar("R")

_CLOSING_SECONDS: Final = 5.0


class LocalProcesses(Closing):
    """``workers`` processes, started by the first ``map`` that has work and kept until ``close``.

    A deadline is kept to within fractions of a second: processes that still work are killed.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"the number of worker processes is {workers}; expected 1 or more")
        self._workers = workers
        self._crew: list[WorkerProcess] = []
        self._one_map_at_a_time = threading.Lock()
        self._files = SharedFiles()
        # For who forgets to close; holds the parts, not the executor, or it would never be collected.
        self._end = weakref.finalize(self, _end, self._crew, self._files)

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def pids(self) -> tuple[int, ...]:
        """The worker processes there are now."""
        return tuple(worker.pid for worker in self._crew if worker.alive)

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
        with self._one_map_at_a_time:
            results = Results[R](len(items), report, each, deadline)
            run = LocalRun(function, items, self._take_idle, self._files, results)
            try:
                return run.finish()
            except Exception:
                self._kill(only_busy=True)
                raise
            except BaseException:  # an interrupt: nobody may be left
                self._kill(only_busy=False)
                raise

    def share(self, value: T) -> Shared[T]:
        self._check_open()
        name, data = freeze(value)
        self._files.write(name, data)
        return Shared(name, lambda: value)

    def close(self) -> None:
        self._end()

    def _check_open(self) -> None:
        if not self._end.alive:
            raise UsageError("this executor is closed; open another one")

    def _take_idle(self) -> WorkerProcess | None:
        self._crew[:] = [worker for worker in self._crew if worker.alive]
        for worker in self._crew:
            if not worker.busy:
                return worker
        if len(self._crew) == self._workers:
            return None
        self._crew.append(WorkerProcess())
        return self._crew[-1]

    def _kill(self, *, only_busy: bool) -> None:
        doomed = [worker for worker in self._crew if worker.busy or not only_busy]
        self._crew[:] = [worker for worker in self._crew if worker not in doomed]
        for worker in doomed:
            worker.kill()


def _end(crew: list[WorkerProcess], files: SharedFiles) -> None:
    for worker in crew:
        worker.kill()
    for worker in crew:
        worker.wait(_CLOSING_SECONDS)
    crew.clear()
    files.remove()
