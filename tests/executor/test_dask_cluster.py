"""A real scheduler with two worker processes here: same results, and a killed worker costs nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapass.errors import DataError, TimeUpError, UsageError, WorkerError
from adapass.executor import DaskCluster, InProcess, cluster_check, dask_cluster, dask_run, open_executor
from adapass.executor.cluster_check import check_versions, local_versions
from adapass.testing import jobs
from adapass.testing.jobs import Nap, Row

distributed: Any = pytest.importorskip("distributed", reason="Dask is not installed (adapass[dask])")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster: Any) -> Iterator[DaskCluster]:
    with DaskCluster(cluster.scheduler_address) as executor:
        yield executor


def test_results_are_those_of_one_process_and_reported(executor: DaskCluster) -> None:
    reports: list[tuple[int, int]] = []
    each: dict[int, bytes] = {}

    results = executor.map(
        jobs.product,
        range(6),
        report=lambda done, total: reports.append((done, total)),
        each=each.__setitem__,
    )

    assert results == InProcess().map(jobs.product, range(6))
    assert reports == [(done, 6) for done in range(1, 7)]
    assert each == dict(enumerate(results))
    assert executor.map(jobs.square, []) == []


def settle(cluster: Any) -> None:
    """Wait for both workers: Dask's nannies give up on a worker that is killed while it starts."""
    running = distributed.core.Status.running
    until = time.monotonic() + 30
    while len(cluster.scheduler.workers) < 2 or any(n.status != running for n in cluster.workers.values()):
        assert time.monotonic() < until, "a worker was not started again"
        time.sleep(0.05)


def test_killed_workers_lose_neither_items_nor_shared_values(cluster: Any, executor: DaskCluster) -> None:
    settle(cluster)
    matrix = np.arange(40, dtype=np.float32).reshape(20, 2)
    handle = executor.share(matrix)
    rows = [Row(handle, row) for row in range(20)]
    killed: list[int] = []

    def kill_all_once(index: int, total: float) -> None:
        del index, total
        if not killed:
            killed.extend(nanny.pid for nanny in cluster.workers.values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    totals = executor.map(jobs.row_sum, rows, each=kill_all_once)

    assert len(killed) == 2
    assert totals == [float(total) for total in matrix.sum(axis=1)]
    settle(cluster)
    assert not set(killed) & set(executor.map(jobs.process, range(4)))
    assert executor.map(jobs.row_sum, rows) == totals


def test_an_item_that_kills_its_worker_is_named(
    cluster: Any, executor: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(cluster)
    assert executor.workers == 2
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)  # of the scheduler; 3 by default

    with pytest.raises(WorkerError, match="item 0 of 1 ended its Dask worker 1 times: most likely memory"):
        executor.map(jobs.die, [0])


def test_a_cluster_that_loses_its_workers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_run, "NO_WORKERS_SECONDS", 0.1)
    monkeypatch.setattr(dask_run, "_LOOK_SECONDS", 0.2)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as lonely,
        DaskCluster(lonely.scheduler_address) as executor,
    ):
        lonely.scale(0)

        with pytest.raises(WorkerError, match="no workers for 0 s, with 0 of 1 items done"):
            executor.map(time.sleep, [0.5])


def test_an_error_arrives_as_it_was_raised_once(executor: DaskCluster) -> None:
    with pytest.raises(DataError, match="column 'x' is missing") as caught:
        executor.map(jobs.fail, ["data", "well"])

    assert "in fail" in str(caught.value.__cause__)


def test_a_deadline_keeps_results_and_returns_at_once(executor: DaskCluster, tmp_path: Path) -> None:
    executor.map(jobs.square, range(4))
    deadline = time.monotonic() + 1.0

    with pytest.raises(TimeUpError, match="1 of 4 items") as caught:
        executor.map(jobs.nap, [Nap(tmp_path, s) for s in (0, 4, 4, 4)], deadline=deadline)

    assert time.monotonic() - deadline < 1.0
    assert set(caught.value.done) == {0}


def test_warnings_and_log_records_reach_the_parent(
    executor: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    executor.map(jobs.complain, ["sand"])

    found = [record.name for record in caplog.records if not record.name.startswith("distributed")]
    assert found == ["adapass.testing.jobs", "py.warnings"]


def test_a_large_shared_value_is_sent_without_a_warning(executor: DaskCluster) -> None:
    matrix = np.ones((2, 3_000_000), np.float32)

    assert executor.map(jobs.row_sum, [Row(executor.share(matrix), 1)]) == [3e6]


def test_a_worker_with_other_versions_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_check, "local_versions", lambda: {**local_versions(), "numpy": "1.0"})

    with pytest.raises(UsageError, match=r"numpy is 2.* at tcp://.* and 1\.0 here"):
        DaskCluster(cluster.scheduler_address)


def test_a_worker_checks_the_versions_of_a_task() -> None:
    check_versions(local_versions())

    with pytest.raises(UsageError, match=r"python is 3\.\d+\.\d+ at worker .* and 2\.7 here"):
        check_versions({**local_versions(), "python": "2.7"})
    with pytest.raises(UsageError, match=r"and 2\.7 here"):
        dask_cluster.run_remotely(b"", {}, {**local_versions(), "python": "2.7"})


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 0.5)

    with pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"):
        open_executor(workers=0, scheduler="tcp://127.0.0.1:1")


def test_a_cluster_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_check, "FIRST_WORKER_SECONDS", 0.3)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(UsageError, match="has no workers; start some with `dask worker"),
    ):
        DaskCluster(empty.scheduler_address)


def test_without_dask_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(import_module("sys").modules, "distributed", None)

    with pytest.raises(UsageError, match=r"pip install 'adapass\[dask\]'"):
        DaskCluster("tcp://127.0.0.1:1")
