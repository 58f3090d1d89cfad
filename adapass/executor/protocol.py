"""What every executor promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from adapass.errors import UsageError
from adapass.executor.results import Report
from adapass.executor.shared import Shared

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs one function over many items. Where, and on how many workers, makes no difference to the results.

    Every call sees one BLAS and one OpenMP thread; ONNX Runtime has threads of its own, whose number
    belongs into the item. A function must not change its item: in this process it would be the
    caller's own. Items and results travel by pickle, only ever between processes that adapass (or,
    with Dask, the user) started; nothing that came from a file of the user is unpickled.
    """

    @property
    def workers(self) -> int:
        """How many items run at the same time."""
        ...

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        report: Report | None = None,
        each: Callable[[int, R], None] | None = None,
        deadline: float | None = None,
    ) -> list[R]:
        """Results in the order of ``items``.

        ``function`` is found by name in the worker: a top-level function of an installed module.
        ``each`` is given ``(index, result)`` of an item as soon as it is finished, in the calling
        thread, and before ``report``. ``deadline`` is a value of ``time.monotonic()``.

        Raises:
            TimeUpError: the deadline passed; ``done`` holds what was finished, the rest was stopped.
            WorkerError: an item ended its worker process three times.
            UsageError: the function or an item cannot be sent to a worker.
            Exception: what the function raised, with its own type; the other items are given up.

        """
        ...

    def share(self, value: T) -> Shared[T]:
        """Send a large value once. Anywhere in an item, the handle gives it back with ``get()``.

        It is valid for the items of this executor, until ``close``.
        """
        ...

    def close(self) -> None:
        """Free processes, connections and files. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """The context manager of an executor: leaving it closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_function(function: Callable[[T], R]) -> None:
    """Refuse what a worker cannot find by its name.

    Raises:
        UsageError: a lambda, a nested function, or one of a script.

    """
    name = str(getattr(function, "__qualname__", ""))
    module = getattr(function, "__module__", "")
    if module == "__main__" or "<" in name:
        raise UsageError(
            f"function '{module}.{name}' cannot be found by a worker process; "
            "expected a top-level function of an installed module"
        )
