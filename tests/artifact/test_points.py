"""Certified operating points: what is written is read back, what contradicts itself is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest

from adapass.artifact import (
    CertifiedPoint,
    GeneratorInfo,
    PointMeasure,
    Port,
    find_point,
    load_artifact,
    points_of,
    read_artifact,
    runtime,
)
from adapass.artifact.manifest import BLANK, Manifest, content_hash, manifest_to_bytes
from adapass.artifact.points import estimated_seconds, knob_arrays, plain_knobs
from adapass.budgeted import Array, Feeds
from adapass.errors import ArtifactError, UsageError
from adapass.generator import Outcome

INPUTS = (
    Port(name="x", dtype="float32", shape=("N", 3)),
    Port(name="t", dtype="float32", shape=(2,), optional=True),
)
KNOBS: tuple[tuple[float | None, ...], ...] = ((None, None), (0.75, None), (0.5, 0.25))
POINTS = tuple(
    CertifiedPoint(
        name=f"p{index}",
        knobs={"t": knobs},
        certified_drop=0.002 * index,
        p_value=0.01,
        certificate={"estimate": 0.001 * index, "max_drop": 0.01},
    )
    for index, knobs in enumerate(KNOBS)
)
MEASURES = (
    PointMeasure(name="p0", aliases=("safe",), seconds=4e-3, ratio=(1.0, 0.9, 1.1)),
    PointMeasure(name="p1", aliases=("balanced",), expected_seconds=1.5e-3),
    PointMeasure(name="p2", aliases=("fast",), expected_seconds=1e-3, seconds=2e-3, ratio=(0.5, 0.4, 0.6)),
)
FIELDS: dict[str, Any] = {
    "inputs": INPUTS,
    "points": POINTS,
    "point_measures": MEASURES,
    "default_point": "p2",
}
X = np.ones((1, 3), np.float32)


class Maker(Protocol):
    folder: Path

    def write(self, name: str = ..., **changes: object) -> Path: ...

    def write_built(self, built: Path, name: str = ..., **changes: object) -> Path: ...


class FakeGenerator:
    """Its runner answers with the knobs it was fed."""

    name: ClassVar[str] = "fake"

    def available(self) -> str | None:
        return None

    def load(self, folder: Path, *, threads: int) -> FakeGenerator:
        del folder, threads
        return self

    def run(self, feeds: Feeds) -> Outcome:
        return Outcome({"fed": np.asarray(feeds.get("t", np.zeros(0)))}, np.zeros(1, np.int64))

    def close(self) -> None: ...


@pytest.fixture
def served(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes an artifact with three points whose runner says which knobs arrived."""

    def find(name: str) -> FakeGenerator:
        assert name == "fake"
        return FakeGenerator()

    monkeypatch.setattr(runtime, "generator", find)
    built = maker.folder / "built"
    built.mkdir()
    (built / "code.bin").write_bytes(b"code")

    def write(**changes: object) -> Path:
        info = GeneratorInfo(name="fake", variant="v")
        fields: dict[str, Any] = {**FIELDS, **changes}
        return maker.write_built(built, generator=info, **fields)

    return write


def fed(outputs: dict[str, Array]) -> list[float]:
    return [float(value) for value in np.asarray(outputs["fed"], np.float64)]


def test_points_are_read_back_with_what_is_known_of_them(served: Callable[..., Path]) -> None:
    first, second, third = points_of(read_artifact(served()).manifest)

    assert (first.title, second.title, third.title) == ("p0 = safe", "p1 = balanced", "p2 = fast")
    assert [p.knobs["t"] for p in (first, second, third)] == list(KNOBS)
    assert [p.is_default for p in (first, second, third)] == [False, False, True]
    assert (third.loss, third.ratio, str(third.trust)) == (0.002, (0.5, 0.4, 0.6), "measured")
    assert second.seconds == pytest.approx(3e-3)
    assert str(second.trust) == "modelled"


def test_what_ships_runs_with_what_is_built_in(served: Callable[..., Path]) -> None:
    with load_artifact(served(), threads=1) as loaded:
        assert loaded.point is not None
        assert loaded.point.name == "p2"
        assert fed(loaded.run({"x": X})) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("safe", [np.inf, np.inf]), ("p1", [0.75, np.inf]), ("balanced", [0.75, np.inf]), ("fast", [])],
)
def test_a_point_is_run_by_name_or_alias(
    served: Callable[..., Path], name: str, expected: list[float]
) -> None:
    with load_artifact(served(), threads=1, point=name) as loaded:
        assert fed(loaded.run({"x": X})) == expected


def test_the_point_is_switched_without_loading_and_counts_start_anew(served: Callable[..., Path]) -> None:
    with load_artifact(served(), threads=1) as loaded:
        loaded.run({"x": X})
        loaded.set_point("p1")

        assert loaded.stats.runs == 0
        assert loaded.stats.counts == {}
        assert fed(loaded.run({"x": X})) == [0.75, np.inf]
        assert loaded.stats.runs == 1
        loaded.set_point("fast")
        assert fed(loaded.run({"x": X})) == []


def test_a_picked_default_is_fed_because_the_build_has_another(served: Callable[..., Path]) -> None:
    folder = served(default_point="p1")

    with load_artifact(folder, threads=1) as loaded:
        assert fed(loaded.run({"x": X})) == [0.75, np.inf]
    with load_artifact(folder, threads=1, point="fast") as loaded:
        assert fed(loaded.run({"x": X})) == [0.5, 0.25]


def test_knobs_among_the_feeds_win(served: Callable[..., Path]) -> None:
    with load_artifact(served(), threads=1, point="p1") as loaded:
        assert fed(loaded.run({"x": X, "t": np.array([0.1, 0.2], np.float32)})) == pytest.approx([0.1, 0.2])


def test_an_unknown_point_is_refused_with_what_there_is(served: Callable[..., Path], maker: Maker) -> None:
    with pytest.raises(UsageError, match=r"no operating point 'quick'; it has p0 = safe, p1 = balanced, p2"):
        load_artifact(served(), point="quick")
    with pytest.raises(UsageError, match="no certified operating points"):
        load_artifact(maker.write("plain.adapass"), point="fast")


def test_a_failed_switch_leaves_the_point_as_it_was(served: Callable[..., Path]) -> None:
    with load_artifact(served(), threads=1, point="p1") as loaded:
        with pytest.raises(UsageError):
            loaded.set_point("p9")
        assert fed(loaded.run({"x": X})) == [0.75, np.inf]


def _with(index: int, **changes: object) -> tuple[CertifiedPoint, ...]:
    return tuple(p.model_copy(update=changes) if i == index else p for i, p in enumerate(POINTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"points": _with(1, name="p7")}, "called .*'p7'", id="names-out-of-order"),
        pytest.param({"point_measures": MEASURES[:2]}, "point_measures are not those", id="a-measure-less"),
        pytest.param(
            {"point_measures": (*MEASURES[:2], MEASURES[2].model_copy(update={"aliases": ("safe",)}))},
            "aliases",
            id="an-alias-twice",
        ),
        pytest.param(
            {"point_measures": (*MEASURES[:2], MEASURES[2].model_copy(update={"aliases": ("p0",)}))},
            "aliases",
            id="an-alias-that-is-a-name",
        ),
        pytest.param({"default_point": None}, "default_point is None", id="no-default"),
        pytest.param({"default_point": "p3"}, "default_point is 'p3'", id="default-that-is-none"),
        pytest.param({"points": (), "point_measures": ()}, "default_point is 'p2'", id="default-of-nothing"),
        pytest.param({"points": _with(2, certified_drop=0.001)}, "never to fall", id="a-drop-that-falls"),
        pytest.param({"points": _with(1, knobs={})}, r"sets \[\], p0 \['t'\]", id="a-knob-less"),
        pytest.param({"points": _with(1, knobs={"t": (1.0,)})}, "no such knob", id="knob-of-another-size"),
        pytest.param({"inputs": INPUTS[:1]}, "no such knob", id="the-model-has-no-knob"),
        pytest.param({"points": _with(0, certified_drop=1.5)}, "certified_drop", id="drop-out-of-range"),
        pytest.param({"points": _with(0, name="best")}, "name", id="name-of-another-form"),
    ],
)
def test_contradictions_are_refused(
    served: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    folder = served()
    bad = read_artifact(folder).manifest.model_copy(update=changes)
    (folder / "manifest.json").write_bytes(manifest_to_bytes(bad))

    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder)


def test_contradictions_are_not_even_written(served: Callable[..., Path], maker: Maker) -> None:
    with pytest.raises(ArtifactError, match="never to fall"):
        served(points=_with(2, certified_drop=0.001))
    assert not (maker.folder / "tiny.adapass").exists()


def test_a_flipped_threshold_is_noticed(served: Callable[..., Path]) -> None:
    path = served() / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"0.75", b"0.25"))

    with pytest.raises(ArtifactError, match="damaged"):
        read_artifact(path.parent)


class TestSchema:
    def test_a_manifest_of_schema_1_is_still_read(self, maker: Maker) -> None:
        folder = maker.write()
        _forge_old(folder / "manifest.json", {})

        artifact = read_artifact(folder)

        assert artifact.manifest.schema_version == 1
        assert points_of(artifact.manifest) == ()
        with load_artifact(folder, threads=1) as loaded:
            assert loaded.points == ()
            assert loaded.point is None
            loaded.run({"x": X})

    def test_points_in_a_manifest_of_schema_1_are_refused(self, maker: Maker) -> None:
        folder = maker.write()
        _forge_old(folder / "manifest.json", {"points": []})

        with pytest.raises(ArtifactError, match="schema version 1"):
            read_artifact(folder)

    def test_the_content_hash_of_schema_1_is_what_it_was(self) -> None:
        """The value was computed by the code that knew no points."""
        manifest = Manifest.model_validate(OLD)

        assert content_hash(manifest) == OLD_CONTENT_HASH

    def test_measurements_of_points_are_not_content_but_settings_are(self, maker: Maker) -> None:
        def hash_of(**changes: object) -> str:
            fields: dict[str, Any] = {**FIELDS, **changes}
            return read_artifact(maker.write(**fields)).manifest.content_hash

        slower = tuple(m.model_copy(update={"seconds": 9.0, "expected_seconds": 8.0}) for m in MEASURES)
        assert hash_of() == hash_of(point_measures=slower)
        assert hash_of() != hash_of(points=_with(1, knobs={"t": (0.7, None)}))
        assert hash_of() != hash_of(points=_with(1, certified_drop=0.003))
        assert hash_of() != hash_of(default_point="p1")


OLD: dict[str, Any] = {
    "kind": "optimized",
    "target": "cpu",
    "task": "accuracy",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 2]}],
    "original": {"name": "m.onnx", "sha256": "1" * 64, "size_bytes": 5},
    "certificate": {"max_drop": 0.01},
    "schema_version": 1,
    "files": {"model.onnx": {"size_bytes": 3, "sha256": "2" * 64}},
}
OLD_CONTENT_HASH = "51c23986536fcca936ea1e9b4c8e7d91b1048d123f6fb9c88ed4675322916c92"


def _forge_old(path: Path, extra: dict[str, object]) -> None:
    """The manifest as an older adapass would have written it."""
    document = json.loads(path.read_bytes())
    for name in ("points", "default_point", "point_measures"):
        del document[name]
    document.update(schema_version=1, **extra)
    document["content_hash"] = content_hash(
        Manifest.model_validate({k: v for k, v in document.items() if k not in extra})
    )
    document["self_sha256"] = BLANK
    blank = json.dumps(document)
    path.write_text(blank.replace(BLANK, hashlib.sha256(blank.encode()).hexdigest()))


class TestEstimates:
    def test_expected_times_are_put_on_the_scale_of_the_measured_ones(self) -> None:
        measures = (
            PointMeasure(name="p0", expected_seconds=4.0, seconds=4.4),
            PointMeasure(name="p1", expected_seconds=3.0),
            PointMeasure(name="p2", expected_seconds=2.0, seconds=2.6),
            PointMeasure(name="p3", expected_seconds=1.0),
            PointMeasure(name="p4"),
        )

        assert estimated_seconds(measures) == pytest.approx((4.4, 3.6, 2.6, 1.3, None))

    def test_without_a_measurement_they_stay_as_they_are(self) -> None:
        assert estimated_seconds([PointMeasure(name="p0", expected_seconds=4.0)]) == (4.0,)


class TestKnobs:
    def test_infinity_survives(self) -> None:
        arrays = {"t": np.array([0.1, np.inf], np.float32)}

        plain = plain_knobs(arrays)

        assert plain["t"][1] is None
        np.testing.assert_array_equal(knob_arrays(plain)["t"], arrays["t"])
        assert knob_arrays(plain)["t"].dtype == np.float32

    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_what_is_no_threshold_is_refused(self, value: float) -> None:
        with pytest.raises(ArtifactError, match="plus infinity expected"):
            plain_knobs({"t": np.array([value], np.float32)})


def test_find_point_knows_names_and_aliases(served: Callable[..., Path]) -> None:
    manifest = read_artifact(served()).manifest

    assert find_point(manifest, "p0", "it").name == find_point(manifest, "safe", "it").name == "p0"
