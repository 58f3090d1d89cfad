from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pytest

from adapass.artifact import Exits, GeneratorInfo, Port, Quality, load_artifact, runtime
from adapass.artifact.plain import PlainRunner
from adapass.budgeted import Array, Feeds
from adapass.errors import AdapassError, ArtifactError, DataError, ModelError, UsageError
from adapass.generator import Outcome


class Maker(Protocol):
    folder: Path
    model: Path

    def write(self, name: str = ..., **changes: object) -> Path: ...

    def write_built(self, built: Path, name: str = ..., **changes: object) -> Path: ...


X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_runs_the_original_and_says_what_went_in(maker: Maker) -> None:
    with load_artifact(maker.write(), threads=1) as loaded:
        outputs = loaded.run({"x": X})

        assert list(outputs) == ["y"]
        np.testing.assert_array_equal(outputs["y"], X @ W)
        assert [port.name for port in loaded.inputs] == ["x"]
        assert [port.name for port in loaded.outputs] == ["y"]
        assert loaded.stats.runs == 1
        assert loaded.stats.exits is None


def test_runs_with_external_data(maker: Maker, tiny: Callable[..., Path]) -> None:
    tiny(maker.model, external="w.bin")

    with load_artifact(maker.write(), threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": X})["y"], X @ W)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        pytest.param({}, r"input 'x' is missing; give float32 of shape \[N, 3\]", id="missing"),
        pytest.param({"x": X, "z": X}, "unknown input 'z'; the inputs are x", id="unknown"),
        pytest.param({"x": X.astype(np.float64)}, "type float64, expected float32", id="wrong-type"),
        pytest.param({"x": X[0]}, r"shape \[3\], expected \[N, 3\]", id="wrong-rank"),
        pytest.param({"x": X[:, :2]}, r"shape \[2, 2\], expected \[N, 3\]", id="wrong-size"),
    ],
)
def test_says_what_is_wrong_with_the_inputs(maker: Maker, feeds: dict[str, Array], message: str) -> None:
    with load_artifact(maker.write(), threads=1) as loaded, pytest.raises(DataError, match=message):
        loaded.run(feeds)


def test_an_input_with_a_default_may_be_left_out() -> None:
    ports = (
        Port(name="x", dtype="float32", shape=("N", 3)),
        Port(name="t", dtype="float32", shape=(1,), optional=True),
    )

    assert list(runtime.checked_feeds({"x": X}, ports)) == ["x"]


def test_a_closed_artifact_says_so(maker: Maker) -> None:
    loaded = load_artifact(maker.write(), threads=1)
    loaded.close()
    loaded.close()

    with pytest.raises(UsageError, match="is closed"):
        loaded.run({"x": X})


def test_uses_the_measured_number_of_threads_if_it_may(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = maker.write()
    monkeypatch.setattr(runtime, "usable_threads", lambda: 8)

    with load_artifact(folder) as loaded:
        assert loaded.threads == 1
    with load_artifact(folder, threads=2) as loaded:
        assert loaded.threads == 2
    with pytest.raises(UsageError, match="threads is 0"):
        load_artifact(folder, threads=0)


class FakeRunner:
    """Every sample with a first value of at most 2 takes exit 0."""

    def run(self, feeds: Feeds) -> Outcome:
        return Outcome(dict(feeds), np.less(2, np.asarray(feeds["x"], np.float32)[:, 0]).astype(np.int64))

    def close(self) -> None: ...


class FakeGenerator:
    name: ClassVar[str] = "fake"
    missing: str | None = None

    def available(self) -> str | None:
        return self.missing

    def load(self, folder: Path, *, threads: int) -> FakeRunner:
        assert (folder / "code.bin").read_bytes() == b"code"
        assert threads == 1
        return FakeRunner()


def use(fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> FakeGenerator:
        assert name == "fake"
        return fake

    monkeypatch.setattr(runtime, "generator", find)


@pytest.fixture
def built(maker: Maker) -> Path:
    folder = maker.folder / "built"
    folder.mkdir()
    (folder / "code.bin").write_bytes(b"code")
    return maker.write_built(folder, generator=GeneratorInfo(name="fake", variant="v"))


def test_counts_the_exits_taken(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeGenerator(), monkeypatch)

    with load_artifact(built, threads=1) as loaded:
        loaded.run({"x": X})
        first = loaded.stats
        loaded.run({"x": X[:1]})
        second = loaded.stats

    assert first.exits == (0, 1)
    assert second.exits == (0,)
    assert second.counts == {0: 2, 1: 1}
    assert second.samples == 3
    assert second.runs == 2


def test_tells_when_the_exits_drift(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeGenerator(), monkeypatch)
    built = maker.folder / "code"
    built.mkdir()
    (built / "code.bin").write_bytes(b"code")
    quality = Quality(metric="accuracy", before=0.9, after=0.9, samples=1000)
    info = GeneratorInfo(name="fake", variant="v")
    alarms: list[bool] = []
    for shares in ((0.5, 0.5), (0.9, 0.1)):
        exits = Exits(rule="max-probability", shares=shares)
        folder = maker.write_built(
            built, f"{shares[0]}.adapass", generator=info, exits=exits, quality=quality
        )
        with load_artifact(folder, threads=1) as loaded:
            for _ in range(200):
                loaded.run({"x": X})
            alarms.append(loaded.stats.drift is not None)

    assert alarms == [False, True]


def test_the_exit_taken_is_no_output(maker: Maker) -> None:
    ports = (
        Port(name="y", dtype="float32", shape=("N", 2)),
        Port(name="adapass_exit", dtype="int64", shape=("N",)),
    )

    with load_artifact(maker.write(outputs=ports), threads=1) as loaded:
        assert [port.name for port in loaded.outputs] == ["y"]


def test_names_a_generator_that_is_not_installed(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = FakeGenerator()
    absent.missing = "pip install fake"
    use(absent, monkeypatch)

    with pytest.raises(ArtifactError, match="needs generator 'fake': pip install fake"):
        load_artifact(built)


def test_names_a_generator_nobody_knows(built: Path) -> None:
    with pytest.raises(ArtifactError, match="built by generator 'fake'"):
        load_artifact(built)


class TestPlainRunner:
    def test_says_what_onnx_runtime_said(self, maker: Maker) -> None:
        runner = PlainRunner(maker.model, threads=1)

        with pytest.raises(DataError, match=r"my-model\.onnx does not run on these inputs"):
            runner.run({"x": X[0]})

    def test_refuses_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"not a model")

        with pytest.raises(AdapassError, match=r"bad\.onnx"):
            PlainRunner(bad, threads=1)

    def test_refuses_a_model_that_onnx_runtime_cannot_open(self, tmp_path: Path) -> None:
        (tmp_path / "empty.onnx").write_bytes(b"")

        with pytest.raises(ModelError, match="ONNX Runtime cannot open"):
            PlainRunner(tmp_path / "empty.onnx", threads=1)

    def test_refuses_external_data_outside_the_folder(
        self, tmp_path: Path, tiny: Callable[..., Path]
    ) -> None:
        (tmp_path / "inner").mkdir()
        model = tiny(tmp_path / "inner" / "model.onnx", external="../w.bin")

        with pytest.raises(ArtifactError, match="not a plain path"):
            PlainRunner(model, threads=1)

    def test_refuses_external_data_through_a_link(self, tmp_path: Path, tiny: Callable[..., Path]) -> None:
        (tmp_path / "inner").mkdir()
        model = tiny(tmp_path / "inner" / "model.onnx", external="w.bin")
        (tmp_path / "inner" / "w.bin").rename(tmp_path / "w.bin")
        (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "w.bin")

        with pytest.raises(ArtifactError, match="link out of the folder"):
            PlainRunner(model, threads=1)

    def test_names_external_data_that_is_missing(self, tmp_path: Path, tiny: Callable[..., Path]) -> None:
        model = tiny(tmp_path / "model.onnx", external="w.bin")
        (tmp_path / "w.bin").unlink()

        with pytest.raises(ArtifactError, match=r"w\.bin: external data of model\.onnx is missing"):
            PlainRunner(model, threads=1)
