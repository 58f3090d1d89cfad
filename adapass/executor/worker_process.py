"""A worker process as its parent sees it: the process, and the thread that talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from adapass.executor.descendants import kill_descendants
from adapass.executor.threads import ONE_THREAD
from adapass.executor.worker import Order, read_message, write_message

# Not multiprocessing: it runs the user's script again in every worker, and a script without
# `if __name__ == "__main__"` would then start workers of its own.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from adapass.executor.worker import work; work(int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from a worker: a pickled outcome, or ``None`` when it died."""

    worker: WorkerProcess
    outcome: bytes | None


Outbox = queue.SimpleQueue[Reply]


class WorkerProcess:
    """Started at once, at work when it is ready. Runs one order at a time."""

    def __init__(self) -> None:
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109  (a text, like the others)
        with _interrupts_held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(path), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **ONE_THREAD},
            )
        self.busy = False
        """Has an order whose reply was not taken yet: whoever takes it resets this."""
        self._inbox: queue.SimpleQueue[tuple[Order, Outbox] | None] = queue.SimpleQueue()
        threading.Thread(target=self._converse, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def end(self) -> str:
        """How the process ended, in words."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}; its standard error says why"
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return f"killed by {name}: most likely memory ran out; use fewer workers or smaller data"
        return f"killed by {name}: a crash in native code"

    def submit(self, order: Order, outbox: Outbox) -> None:
        self.busy = True
        self._inbox.put((order, outbox))

    def kill(self) -> None:
        """End it and what it started, at once. What it was doing is lost."""
        kill_descendants(self.pid)
        self._process.kill()
        self._inbox.put(None)

    def wait(self, seconds: float) -> None:
        """Until the killed process is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _converse(self) -> None:
        while (ordered := self._inbox.get()) is not None:
            order, outbox = ordered
            outcome = self._ask(order)
            if outcome is None:
                self._bury()
            outbox.put(Reply(self, outcome))
            if outcome is None:
                return
        self._bury()

    def _ask(self, order: Order) -> bytes | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, pickle.dumps(order))
            return read_message(self._process.stdout)
        except (EOFError, OSError):
            return None

    def _bury(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # an order that was half written is still in the buffer
                stream.close()


@contextlib.contextmanager
def _interrupts_held_back() -> Generator[None, None, None]:
    # A child starts with the signals blocked that its parent blocks: without a gap, none of it sees
    # an interrupt from the keyboard before it has chosen to ignore it.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
