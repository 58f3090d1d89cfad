"""The engine of `adapass bench`: which runs are made, on what data, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from adapass.budgeted import Array, Feeds
from adapass.cost.bench import BenchResult, Settings, batched_feeds, bench, open_path, table
from adapass.cost.measure import Clock
from adapass.errors import DataError, UsageError
from adapass.graph.save import save_model
from adapass.graph.text import parse

RELU = """
<ir_version: 8, opset_import: ["" : 18]>
relu (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }
"""


@dataclass(frozen=True)
class Numbers:
    """Samples 0, 1, 2, ... of one number each."""

    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def labels(self) -> Array | None:
        return None

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": np.array(indices, np.float32)[:, None]}


@dataclass
class Devices:
    """Opens pretended models: a model's time is its file name in milliseconds, a thread halves it."""

    time: float = 0.0
    log: list[str] = field(default_factory=list[str])

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=lambda _: None, load=lambda: 0.0)

    def open(self, path: Path, threads: int) -> Model:
        self.log.append(f"open {path.name} {threads}")
        return Model(self, path.name, float(path.stem) * 1e-3 / threads)


@dataclass
class Model:
    """A pretended model."""

    devices: Devices
    name: str
    seconds: float

    def run(self, feeds: Feeds) -> None:
        self.devices.time += self.seconds * len(feeds["x"])

    def close(self) -> None:
        self.devices.log.append(f"close {self.name}")


def run(devices: Devices, settings: Settings, *others: str) -> BenchResult:
    paths = [Path(name) for name in others]
    return bench(Path("8.onnx"), paths, Numbers(64), settings, opener=devices.open, clock=devices.clock)


def test_every_combination_is_a_row_for_every_model() -> None:
    result = run(Devices(), Settings(threads=(1, 2), batches=(1, 4), samples=16), "4.onnx", "2.onnx")

    found = [(row.model, row.threads, row.batch) for row in result.rows]
    assert found == [
        (model, threads, batch)
        for threads in (1, 2)
        for batch in (1, 4)
        for model in ("8.onnx", "4.onnx", "2.onnx")
    ]


def test_rows_hold_times_throughput_and_the_ratio_to_the_baseline() -> None:
    result = run(Devices(), Settings(threads=(2,), batches=(4,)), "4.onnx")
    base, other = result.rows

    assert base.ratio is None
    assert base.timing.mean == pytest.approx(16e-3)
    assert other.timing.throughput == pytest.approx(500.0)
    assert other.ratio is not None
    assert other.ratio.value == pytest.approx(0.5)


def test_models_are_closed_before_the_next_combination_opens() -> None:
    devices = Devices()

    run(devices, Settings(threads=(1, 2), samples=4), "4.onnx")

    one = ["open 8.onnx 1", "open 4.onnx 1", "close 8.onnx", "close 4.onnx"]
    assert devices.log == [*one, *(line.replace(" 1", " 2") for line in one)]


def test_what_was_opened_is_closed_when_the_next_cannot_be_opened() -> None:
    devices = Devices()

    with pytest.raises(ValueError, match="could not convert"):
        run(devices, Settings(), "broken.onnx")

    assert devices.log == ["open 8.onnx 1", "open broken.onnx 1", "close 8.onnx"]


def test_the_time_limit_is_for_all_combinations() -> None:
    short, full = Devices(), Devices()

    result = run(short, Settings(batches=(1, 2), max_seconds=0.2))
    run(full, Settings(batches=(1, 2)))

    assert short.time < full.time / 4
    assert any(note.startswith("time was up") for note in result.notes)


def test_more_threads_than_cores_are_noted() -> None:
    result = run(Devices(), Settings(threads=(4096,), samples=2))

    assert result.notes[0].startswith("4096 threads on ")


class TestFeeds:
    def test_samples_are_spread_over_the_data(self) -> None:
        feeds = batched_feeds(Numbers(100), 1, 5)

        assert [float(feed["x"][0, 0]) for feed in feeds] == [0.0, 25.0, 50.0, 74.0, 99.0]

    def test_batches_are_full(self) -> None:
        feeds = batched_feeds(Numbers(10), 4, 512)

        assert [feed["x"].shape[0] for feed in feeds] == [4, 4]

    def test_at_least_one_batch_is_made(self) -> None:
        assert len(batched_feeds(Numbers(10), 8, 2)) == 1
        assert len(batched_feeds(Numbers(4), 4, 512)) == 1

    def test_too_little_data_is_refused(self) -> None:
        with pytest.raises(DataError, match="has 3 samples, expected at least 4"):
            batched_feeds(Numbers(3), 4, 512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"threads": (0,)}, r"threads is \[0\]", id="no-thread"),
        pytest.param({"batches": ()}, r"batches is \[\]", id="no-batch"),
        pytest.param({"rounds": 0}, "at least 1", id="no-round"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**settings)  # type: ignore[arg-type]


def test_a_path_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        run(Devices(), Settings(), "8.onnx")


def test_equal_file_names_are_told_apart_by_their_folders() -> None:
    result = bench(
        Path("a/8.onnx"),
        [Path("b/8.onnx")],
        Numbers(4),
        Settings(),
        opener=Devices().open,
        clock=Devices().clock,
    )

    assert [row.model for row in result.rows] == ["a/8.onnx", "b/8.onnx"]


class TestReport:
    def test_is_json_with_all_circumstances(self) -> None:
        result = run(Devices(), Settings(threads=(2,), samples=8), "4.onnx")

        found = json.loads(json.dumps(result.to_json()))

        assert found["settings"]["threads"] == [2]
        assert found["machine"]["versions"]
        assert found["rows"][1]["ratio"]["value"] == pytest.approx(0.5)

    def test_the_table_is_aligned_and_shows_notes(self) -> None:
        lines = table(run(Devices(), Settings(threads=(4096,), samples=8), "4.onnx")).splitlines()

        assert lines[0].split()[:4] == ["model", "threads", "batch", "mean"]
        assert lines[1].startswith("8.onnx")
        assert lines[2].split()[-2:] == ["0.500", "0.500-0.500"]
        assert lines[3].startswith("note: 4096 threads")


class TestOpening:
    def test_a_file_runs_in_plain_onnx_runtime(self, tmp_path: Path) -> None:
        path = tmp_path / "relu.onnx"
        save_model(parse(RELU), path)

        result = bench(path, [], Rows(), Settings(samples=4, rounds=2))

        assert result.rows[0].timing.n == 8
        assert result.rows[0].timing.mean > 0

    def test_a_missing_path_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="neither an ONNX file nor an artifact"):
            open_path(tmp_path / "gone.onnx", 1)


@dataclass(frozen=True)
class Rows(Numbers):
    """Samples of two numbers each."""

    count: int = 8

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": np.ones((len(indices), 2), np.float32)}
