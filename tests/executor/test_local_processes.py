"""Local processes: results, errors, deaths and deadlines."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from adapass.errors import BudgetError, DataError, TimeUpError, UsageError, WorkerError
from adapass.executor import InProcess, LocalProcesses
from adapass.executor.call import RemoteTraceback
from adapass.testing import jobs
from adapass.testing.jobs import Nap, Row

PATIENCE_SECONDS = 5.0


def gone(pids: list[int]) -> bool:
    """Whether all these processes end within seconds."""
    until = time.monotonic() + PATIENCE_SECONDS
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_results_are_in_order_and_reported_as_they_come(two: LocalProcesses) -> None:
    reports: list[tuple[int, int]] = []
    each: dict[int, int] = {}

    results = two.map(
        jobs.square,
        range(20),
        report=lambda done, total: reports.append((done, total)),
        each=each.__setitem__,
    )

    assert results == [n * n for n in range(20)]
    assert reports == [(done, 20) for done in range(1, 21)]
    assert each == dict(enumerate(results))


def test_numbers_are_the_same_bits_wherever_they_are_computed(two: LocalProcesses) -> None:
    assert two.map(jobs.product, range(6)) == InProcess().map(jobs.product, range(6))


def test_a_worker_has_one_thread(two: LocalProcesses) -> None:
    assert two.map(jobs.most_threads, [0, 1]) == [1, 1]


def test_nothing_starts_before_there_is_work_and_workers_are_kept() -> None:
    with LocalProcesses(2) as executor:
        assert executor.map(jobs.square, []) == []
        assert executor.pids == ()
        first = executor.map(jobs.process, [0])
        again = executor.map(jobs.process, [0])

        assert first == again
        assert list(executor.pids) == first
        assert first != [os.getpid()]

    assert gone(first)


def test_an_executor_nobody_closed_ends_its_workers() -> None:
    executor = LocalProcesses(1)
    pids = executor.map(jobs.process, [0])

    del executor

    assert gone(pids)


def test_a_closed_executor_says_so(two: LocalProcesses) -> None:
    executor = LocalProcesses(1)
    executor.close()
    executor.close()

    with pytest.raises(UsageError, match="closed"):
        executor.map(jobs.square, [1])
    with pytest.raises(UsageError, match="closed"):
        executor.share(1)


def test_an_item_whose_worker_was_killed_is_run_again(two: LocalProcesses, tmp_path: Path) -> None:
    markers = [tmp_path / "absent" / "a", tmp_path / "b", tmp_path / "absent" / "c", tmp_path / "d"]

    assert two.map(jobs.die_once, markers) == ["a", "b", "c", "d"]
    assert {path.name for path in tmp_path.iterdir()} == {"b", "d"}


def test_a_worker_killed_between_maps_is_replaced(two: LocalProcesses) -> None:
    two.map(jobs.square, [1, 2])
    victim = two.pids[0]
    psutil.Process(victim).kill()

    assert gone([victim])
    assert two.map(jobs.square, [1, 2, 3]) == [1, 4, 9]


def test_three_deaths_on_one_item_name_it_and_the_likely_cause() -> None:
    with (
        LocalProcesses(1) as executor,
        pytest.raises(WorkerError, match=r"item 0 of 1 .* 3 times, .*SIGKILL: most likely memory ran out"),
    ):
        executor.map(jobs.die, [0])


def test_the_last_attempt_runs_alone(two: LocalProcesses, tmp_path: Path) -> None:
    items = [("die", tmp_path)] + [("stay", tmp_path)] * 12

    assert two.map(jobs.die_twice_or_stay_in, items) == [0] * 13


def test_a_worker_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with (
        LocalProcesses(1) as executor,
        pytest.raises(WorkerError, match=r"item 0 of 1 .* ended with exit code 1; its standard error"),
    ):
        executor.map(jobs.square, [1])


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("data", DataError, "column 'x' is missing"),
        ("noted", BudgetError, "too slow"),
        ("stubborn", WorkerError, "StubbornError in a worker: 1 and 2"),
    ],
)
def test_an_error_arrives_as_it_was_raised(
    two: LocalProcesses, kind: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        two.map(jobs.fail, ["well", kind])

    assert type(caught.value) is error
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert getattr(caught.value, "__notes__", None) == (["measured twice"] if kind == "noted" else None)


def test_the_first_error_there_is_ends_the_rest(two: LocalProcesses, tmp_path: Path) -> None:
    two.map(jobs.square, [1, 2])
    items: list[Nap | str] = [Nap(tmp_path, 60), "late"]
    started = time.monotonic()

    with pytest.raises(ValueError, match="late"):
        two.map(jobs.nap_or_fail, items)

    assert time.monotonic() - started < 20
    assert gone(_pids(tmp_path))
    assert len(_pids(tmp_path)) == 1
    assert two.map(jobs.square, [3]) == [9]


def test_a_result_that_cannot_be_sent_is_an_error_of_that_item(two: LocalProcesses) -> None:
    with pytest.raises(AttributeError, match="make_function"):
        two.map(jobs.make_function, [0])


def test_a_deadline_kills_what_runs_and_what_it_started_and_keeps_results(tmp_path: Path) -> None:
    with LocalProcesses(2) as executor:
        executor.map(jobs.square, [1, 2])
        items = [Nap(tmp_path, 0), Nap(tmp_path, 60), Nap(tmp_path, 60), Nap(tmp_path, 60)]
        deadline = time.monotonic() + 0.8

        with pytest.raises(TimeUpError, match="1 of 4 items") as caught:
            executor.map(jobs.nap, items, deadline=deadline)

        assert time.monotonic() - deadline < 1.0
        assert set(caught.value.done) == {0}
        assert gone(_pids(tmp_path))
        assert executor.map(jobs.square, [5]) == [25]


def test_a_deadline_ends_what_a_worker_started(two: LocalProcesses, tmp_path: Path) -> None:
    two.map(jobs.square, [1])

    with pytest.raises(TimeUpError):
        two.map(jobs.nap_beside_child, [Nap(tmp_path, 60)], deadline=time.monotonic() + 1.0)

    assert len(_pids(tmp_path)) == 2
    assert gone(_pids(tmp_path))


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    with LocalProcesses(1) as executor:
        with pytest.raises(TimeUpError, match="0 of 1"):
            executor.map(jobs.square, [1], deadline=time.monotonic() - 1)

        assert executor.pids == ()


def test_warnings_and_log_records_reach_the_parent(
    two: LocalProcesses, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    two.map(jobs.complain, ["sand"])

    found = [(record.name, record.levelno) for record in caplog.records]
    assert found == [("adapass.testing.jobs", logging.WARNING), ("py.warnings", logging.WARNING)]
    assert caplog.records[0].getMessage() == "logged sand"
    assert "UserWarning: warned sand" in caplog.records[1].getMessage()
    assert capfd.readouterr().out == ""


def test_a_shared_value_is_sent_once_and_goes_with_the_executor(two: LocalProcesses, tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    with LocalProcesses(1) as executor:
        handle = executor.share(matrix)
        again = executor.share(matrix.copy())

        assert handle.get() is matrix
        assert again.name == handle.name
        assert executor.map(jobs.row_sum, [Row(handle, row) for row in range(4)]) == [3.0, 12.0, 21.0, 30.0]
        with pytest.raises(UsageError, match="another executor shared"):
            two.map(jobs.row_sum, [Row(handle, 0)])


def test_a_function_that_a_worker_cannot_find_is_refused(two: LocalProcesses) -> None:
    def nested(number: int) -> int:
        return number

    with pytest.raises(UsageError, match="nested' cannot be found by a worker process"):
        two.map(nested, [1])


def test_an_item_that_cannot_be_sent_is_named(two: LocalProcesses) -> None:
    with pytest.raises(UsageError, match="item 1 cannot be sent to a worker"):
        two.map(jobs.process, [0, lambda: None])


def test_the_number_of_workers_is_checked() -> None:
    with pytest.raises(UsageError, match="is 0; expected 1"):
        LocalProcesses(0)
