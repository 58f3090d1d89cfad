"""The latency table that replays measurements, and how a time limit is divided."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapass.driver.latency_table import LatencyTable
from adapass.driver.time_plan import TimePlan
from adapass.errors import DataError
from adapass.executor import TimeUpError


def test_what_was_measured_is_replayed_on_any_machine(tmp_path: Path) -> None:
    file = tmp_path / "m.latency.json"
    first = LatencyTable(file, "here")
    first.put("region-latency", {"content": "a", "threads": 2}, {"seconds": 0.5})
    again = LatencyTable(file, "elsewhere")

    assert again.get("region-latency", {"threads": 2, "content": "a"}) == {"seconds": 0.5}
    assert again.get("finals", {"content": "a", "threads": 2}) is None
    assert again.machine == "here"
    assert (first.measured, again.measured) == (1, 0)


def test_a_table_of_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file, order in zip(files, (("a", "b"), ("b", "a")), strict=True):
        table = LatencyTable(file, "here")
        for key in order:
            table.put("finals", key, {"seconds": 1.0})

    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "adapass-latency-table", "schema_version": 2, "machine": "m", "entries": {}}',
        '{"format": "adapass-latency-table", "schema_version": 1, "machine": 3, "entries": {}}',
        '{"format": "adapass-latency-table", "schema_version": 1, "machine": "m", "entries": {"a": NaN}}',
    ],
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)

    with pytest.raises(DataError, match="is not a latency table"):
        LatencyTable(tmp_path / "t", "here")


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_limit_everything_fits() -> None:
    plan = TimePlan(0.0)

    assert (plan.seconds_left, plan.race_seconds(), plan.compare_seconds()) == (None, None, None)
    assert plan.proof_steps(10_000, 1.0, 12) == 12
    plan.search.check()


def test_every_step_gets_a_share_of_what_is_left() -> None:
    clock = _Clock()
    plan = TimePlan(100.0, 120.0, clock)
    search = plan.search

    clock.now = 159.0
    search.check()
    assert plan.seconds_left == pytest.approx(61.0)
    assert plan.race_seconds() == pytest.approx(0.2 * 61.0)
    assert plan.proof_steps(1000, 0.005, 12) == 4
    assert plan.proof_steps(1000, 1.0, 12) == 0
    clock.now = 172.0
    with pytest.raises(TimeUpError):
        search.check()
    clock.now = 500.0
    assert plan.compare_seconds() == 0.0


def test_a_share_of_a_deadline_comes_earlier() -> None:
    clock = _Clock()
    deadline = TimePlan(100.0, 100.0, clock).search

    assert deadline.share(0.5).at == pytest.approx(130.0)
    assert TimePlan(0.0).search.share(0.5).at is None
