"""One ``map`` on local processes: who does what, who died, what is finished."""

from __future__ import annotations

import pickle
import queue
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from adapass.errors import WorkerError
from adapass.executor.call import Failure, Outcome
from adapass.executor.results import Results
from adapass.executor.shared import pack_call
from adapass.executor.shared_files import SharedFiles
from adapass.executor.worker import Order
from adapass.executor.worker_process import Outbox, Reply, WorkerProcess

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS: Final = 3
# On some systems a wait without a limit cannot be interrupted from the keyboard.
_LONGEST_WAIT_SECONDS: Final = 1.0


class LocalRun(Generic[T, R]):
    """An item whose worker died is run again; the last time alone, should memory have been short."""

    def __init__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        take_idle: Callable[[], WorkerProcess | None],
        shared: SharedFiles,
        results: Results[R],
    ) -> None:
        self._function = function
        self._items = items
        self._take_idle = take_idle
        self._shared = shared
        self._results = results
        self._waiting = deque(range(len(items)))
        self._last_chances: deque[int] = deque()
        self._running: dict[WorkerProcess, int] = {}
        self._attempts: Counter[int] = Counter()
        self._failures: dict[int, Failure] = {}
        self._outbox: Outbox = queue.SimpleQueue()

    def finish(self) -> list[R]:
        """Run everything; see ``Executor.map`` for what is raised."""
        while not self._results.complete:
            self._results.check_time()
            self._hand_out()
            self._collect()
        return self._results.in_order

    def _hand_out(self) -> None:
        while self._has_next() and (worker := self._take_idle()) is not None:
            index = (self._waiting or self._last_chances).popleft()
            call, _ = pack_call(self._function, self._items[index], index, self._shared.known)
            self._attempts[index] += 1
            self._running[worker] = index
            worker.submit(Order(call, self._shared.path), self._outbox)

    def _has_next(self) -> bool:
        return bool(self._waiting) or (bool(self._last_chances) and not self._running)

    def _collect(self) -> None:
        """Wait for one reply, then take all that are there."""
        left = self._results.seconds_left
        wait = _LONGEST_WAIT_SECONDS if left is None else min(left, _LONGEST_WAIT_SECONDS)
        try:
            self._take(self._outbox.get(timeout=wait))
            while not self._outbox.empty():
                self._take(self._outbox.get())
        except queue.Empty:
            return
        if self._failures:
            self._failures[min(self._failures)].throw()

    def _take(self, reply: Reply) -> None:
        index = self._running.pop(reply.worker)
        reply.worker.busy = False
        if reply.outcome is None:
            self._run_again(index, reply.worker)
            return
        outcome: Outcome = pickle.loads(reply.outcome)
        outcome.replay_log()
        if outcome.failure is not None:
            self._failures[index] = outcome.failure
            return
        self._results.add(index, outcome.value)

    def _run_again(self, index: int, worker: WorkerProcess) -> None:
        attempts = self._attempts[index]
        if attempts == ATTEMPTS:
            raise WorkerError(
                f"item {index} of {len(self._items)} ended its worker process {attempts} times, "
                f"the last time {worker.end}"
            )
        if attempts == ATTEMPTS - 1:
            self._last_chances.append(index)
        else:
            self._waiting.appendleft(index)
