"""In this process: no copies, one thread during calls, and the same promises."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from adapass.errors import DataError, TimeUpError, UsageError
from adapass.executor import Executor, InProcess, LocalProcesses, open_executor
from adapass.executor.threads import one_thread
from adapass.testing import jobs
from adapass.testing.jobs import Row


def test_results_are_in_order_and_reported() -> None:
    reports: list[tuple[int, int]] = []
    each: list[tuple[int, int]] = []

    with InProcess() as executor:
        results = executor.map(
            jobs.square,
            [3, 1, 2],
            report=lambda done, total: reports.append((done, total)),
            each=lambda index, result: each.append((index, result)),
        )

    assert results == [9, 1, 4]
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert each == [(0, 9), (1, 1), (2, 4)]


def test_calls_see_one_thread_and_the_numbers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    threadpoolctl: Any = import_module("threadpoolctl")  # ships no types
    with one_thread():
        pass  # everything is loaded from here on
    with threadpoolctl.threadpool_limits(2):
        assert jobs.most_threads(0) == 2

        assert InProcess().map(jobs.most_threads, [0]) == [1]

        assert jobs.most_threads(0) == 2
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_calls_of_two_threads_do_not_overlap() -> None:
    inside = threading.Event()

    def enter() -> None:
        with one_thread():
            inside.set()

    other = threading.Thread(target=enter)
    with one_thread():
        other.start()
        assert not inside.wait(0.2)
    other.join(5)

    assert inside.is_set()


def test_a_library_loaded_during_a_call_reads_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    assert InProcess().map(os.environ.get, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]) == ["1", "1"]


def test_an_error_comes_out_and_ends_the_map() -> None:
    done: dict[int, str] = {}

    with pytest.raises(DataError, match="column 'x' is missing"):
        InProcess().map(jobs.fail, ["a", "data", "b"], each=done.__setitem__)

    assert done == {0: "a"}


def test_the_deadline_is_looked_at_between_items() -> None:
    with pytest.raises(TimeUpError, match="1 of 3 items") as caught:
        InProcess().map(time.sleep, [0.1, 60, 60], deadline=time.monotonic() + 0.05)

    assert caught.value.done == {0: None}


def test_a_shared_value_is_the_value_itself() -> None:
    matrix = np.ones((2, 3), np.float32)
    executor = InProcess()

    handle = executor.share(matrix)

    assert handle.get() is matrix
    assert executor.map(jobs.row_sum, [Row(handle, 1)]) == [3.0]


@pytest.mark.parametrize(("workers", "kind"), [(0, InProcess), (1, LocalProcesses), (3, LocalProcesses)])
def test_the_number_of_workers_decides_where_it_runs(workers: int, kind: type[Executor]) -> None:
    with open_executor(workers=workers, scheduler=None) as executor:
        assert type(executor) is kind
        assert executor.workers == max(1, workers)


@pytest.mark.parametrize("scheduler", [None, "tcp://127.0.0.1:1"])
def test_a_negative_number_of_workers_is_refused(scheduler: str | None) -> None:
    with pytest.raises(UsageError, match="number of workers is -1"):
        open_executor(workers=-1, scheduler=scheduler)


def test_every_executor_keeps_the_protocol() -> None:
    executors: list[Executor] = [InProcess(), LocalProcesses(1)]

    assert [executor.map(partial(max, 3), [2, 5]) for executor in executors[:1]] == [[3, 5]]
    for executor in executors:
        executor.close()
