"""The table of regions: measured once, cached by everything that matters, resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from adapass.budgeted import Feeds
from adapass.cache import Cache, Json
from adapass.cost.measure import Clock
from adapass.cost.model import Trust
from adapass.cost.table import GROUP_KIND, KIND, RegionKey, RegionTable, shapes_of
from adapass.generator import Outcome

FEEDS: list[Feeds] = [
    {"x": np.zeros((1, 8)), "a": np.zeros((1,))},
    {"x": np.zeros((1, 4)), "a": np.zeros((1,))},
]
KEY = RegionKey(
    content="abc",
    generator="onnxruntime",
    target="cpu",
    machine="0123",
    threads=2,
    shapes=shapes_of(FEEDS),
    options={"layout": "nchw"},
)


@dataclass
class FakeDevice:
    """A clock, and runners that take a fixed time on it."""

    seconds: float = 0.25
    time: float = 0.0
    opened: int = 0
    closed: int = 0
    fails: bool = False

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=lambda _: None, load=lambda: 0.0)

    def open(self) -> FakeDevice:
        self.opened += 1
        return self

    def run(self, feeds: Feeds) -> Outcome:
        if self.fails:
            raise RuntimeError("broken kernel")
        self.time += self.seconds * feeds["x"].shape[1] / 4
        return Outcome({})

    def close(self) -> None:
        self.closed += 1


def table_for(folder: Path, device: FakeDevice) -> RegionTable:
    return RegionTable(Cache(folder), clock=device.clock)


def test_measures_the_mean_over_the_feeds(tmp_path: Path) -> None:
    device = FakeDevice()

    cost = table_for(tmp_path, device).get_or_measure(KEY, device.open, FEEDS)

    assert cost.seconds == pytest.approx(0.375)
    assert cost.trust is Trust.MEASURED
    assert (device.opened, device.closed) == (1, 1)


def test_a_known_region_is_not_opened_again_even_by_another_process(tmp_path: Path) -> None:
    device = FakeDevice()
    first = table_for(tmp_path, device).get_or_measure(KEY, device.open, FEEDS)

    again = table_for(tmp_path, device).get_or_measure(KEY, device.open, FEEDS)

    assert again == first
    assert device.opened == 1


CHANGES: dict[str, Callable[[RegionKey], RegionKey]] = {
    "content": lambda k: replace(k, content="abd"),
    "generator": lambda k: replace(k, generator="tvm"),
    "target": lambda k: replace(k, target="x86-64-vnni"),
    "machine": lambda k: replace(k, machine="4567"),
    "threads": lambda k: replace(k, threads=1),
    "shape-mix": lambda k: replace(k, shapes=shapes_of(FEEDS[:1])),
    "options": lambda k: replace(k, options={}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_everything_that_matters_is_in_the_key(name: str, tmp_path: Path) -> None:
    device = FakeDevice()
    table = table_for(tmp_path, device)
    table.get_or_measure(KEY, device.open, FEEDS)

    assert table.get(CHANGES[name](KEY)) is None
    assert table.get(KEY) is not None


def test_an_unknown_region_is_unknown_not_free(tmp_path: Path) -> None:
    assert table_for(tmp_path, FakeDevice()).get(KEY) is None


def test_a_failing_runner_is_closed_and_nothing_is_stored(tmp_path: Path) -> None:
    device = FakeDevice(fails=True)
    table = table_for(tmp_path, device)

    with pytest.raises(RuntimeError, match="broken kernel"):
        table.get_or_measure(KEY, device.open, FEEDS)

    assert device.closed == 1
    assert table.get(KEY) is None


def test_an_entry_of_another_form_is_measured_again(tmp_path: Path) -> None:
    device = FakeDevice()
    cache = Cache(tmp_path)
    cache.put(KIND, KEY.to_json(), {"minutes": 3})

    assert table_for(tmp_path, device).get_or_measure(KEY, device.open, FEEDS).seconds == pytest.approx(0.375)


def test_one_measurement_keeps_its_time_limit(tmp_path: Path) -> None:
    device = FakeDevice(seconds=10.0)
    table = RegionTable(Cache(tmp_path), max_seconds=1.0, clock=device.clock)

    table.get_or_measure(KEY, device.open, FEEDS)

    # Warm-up (3 calls) and one block (4 calls and a discarded one), not five rounds of eight.
    assert device.time <= 8 * 20.0


@pytest.mark.parametrize("feeds", [2, 3, 4])
def test_a_measurement_cut_short_has_seen_all_lengths(feeds: int, tmp_path: Path) -> None:
    device = FakeDevice(seconds=10.0)
    table = RegionTable(Cache(tmp_path), max_seconds=1.0, clock=device.clock)
    mix: list[Feeds] = [{"x": np.zeros((1, 4 * (1 + place)))} for place in range(feeds)]

    found = table.get_or_measure(replace(KEY, shapes=shapes_of(mix)), device.open, mix)

    assert found.seconds == pytest.approx(10.0 * np.mean(range(1, feeds + 1)))


def test_shapes_are_named_and_ordered() -> None:
    assert shapes_of(FEEDS) == (
        (("a", (1,)), ("x", (1, 8))),
        (("a", (1,)), ("x", (1, 4))),
    )


class TestGroups:
    def test_means_of_all_contestants_are_stored(self, tmp_path: Path) -> None:
        fast = FakeDevice(seconds=0.25)
        table = table_for(tmp_path, fast)

        found = table.measure_group(
            KEY, {"fast": fast.run, "slow": lambda feeds: _twice_on(fast, feeds)}, FEEDS
        )

        assert dict(found) == {"fast": pytest.approx(0.375), "slow": pytest.approx(0.75)}
        assert table.get_group(KEY) == found

    @pytest.mark.parametrize("entry", [{}, {"fast": "soon"}, [1.0]], ids=["empty", "no-number", "list"])
    def test_an_entry_of_another_form_is_unknown(self, tmp_path: Path, entry: Json) -> None:
        Cache(tmp_path).put(GROUP_KIND, KEY.to_json(), entry)

        assert table_for(tmp_path, FakeDevice()).get_group(KEY) is None


def _twice_on(device: FakeDevice, feeds: Feeds) -> None:
    device.run(feeds)
    device.run(feeds)
