"""Builds have names of their own, and what decided a race is remembered under everything it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Feeds, OperatingPoint
from adapass.cache import Cache
from adapass.cost.model import Cost, Trust
from adapass.driver.finals import (
    ORIGINAL,
    Build,
    build_all,
    feeds_digest,
    folder_digest,
    labels_of,
    race_once,
)
from adapass.errors import DataError
from adapass.generator import Generator
from adapass.graph.save import save_model
from adapass.graph.text import parse
from adapass.registry import generator
from adapass.search.deadline import Deadline
from adapass.search.plan import Part, Plan
from adapass.search.trials import Candidate
from adapass.target import load_target
from adapass.text_form import parse_pass

STEP = cast("BudgetedPass", parse_pass("quantize-8bit"))
MODEL = '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }'
FEEDS = [{"x": np.ones((1, 2), np.float32)}]


def _candidate(*sites: str) -> Candidate:
    plan = Plan((Part(STEP, tuple(Choice("quantize-8bit", site, "static") for site in sites)),))
    return Candidate(plan if sites else Plan(), parse(MODEL), Cost(1.0, Trust.MEASURED), 0.0)


def _build(folder: Path, name: str, content: str) -> Build:
    place = folder / name
    place.mkdir()
    (place / "model.onnx").write_text(content)
    onnxruntime: Generator = generator("onnxruntime")
    variant = onnxruntime.variants(parse(MODEL), load_target("cpu"), threads=1, batch=1)[0]
    return Build(_candidate("a"), onnxruntime, variant, place)


def test_plans_that_read_alike_are_numbered() -> None:
    found = labels_of([_candidate("a"), _candidate("b"), _candidate("a", "b"), _candidate()])

    assert found == ["quantize-8bit x1 (1)", "quantize-8bit x1 (2)", "quantize-8bit x2", "clean"]


def test_builds_of_plans_that_read_alike_have_names_of_their_own(tmp_path: Path) -> None:
    builds = build_all(
        [_candidate("a"), _candidate("b")],
        [generator("onnxruntime")],
        load_target("cpu"),
        threads=1,
        batch=1,
        scratch=tmp_path,
    )

    assert len({build.name for build in builds}) == len(builds) >= 2


def test_when_time_is_up_the_first_build_is_still_made(tmp_path: Path) -> None:
    builds = build_all(
        [_candidate("a"), _candidate("b")],
        [generator("onnxruntime")],
        load_target("cpu"),
        threads=2,
        batch=1,
        scratch=tmp_path,
        until=Deadline(0.0),
    )

    assert len(builds) == 1


def test_a_race_is_taken_from_the_cache_only_for_the_same_build_and_data(tmp_path: Path) -> None:
    cache, original = Cache(tmp_path / "cache"), tmp_path / "original.onnx"
    model: ir.Model = parse(MODEL)
    save_model(model, original)
    onnxruntime: Generator = generator("onnxruntime")
    target = load_target("cpu")
    (tmp_path / "builds").mkdir()
    builds = build_all(
        [_candidate("a")], [onnxruntime], target, threads=1, batch=1, scratch=tmp_path / "builds"
    )

    def race(feeds: Sequence[Feeds]) -> dict[str, float]:
        return dict(race_once(builds, original, feeds, threads=1, cache=cache, machine="here"))

    first = race(FEEDS)
    assert race(FEEDS) == first
    entries = cache.info().entries
    race([{"x": np.zeros((1, 2), np.float32)}])
    assert cache.info().entries == entries + 1
    assert ORIGINAL in first


def test_a_race_that_was_cut_short_is_not_remembered(tmp_path: Path) -> None:
    cache, original = Cache(tmp_path / "cache"), tmp_path / "original.onnx"
    save_model(parse(MODEL), original)

    race_once([], original, FEEDS, threads=1, cache=cache, machine="here", max_seconds=1.0)

    assert cache.info().entries == 0


def test_impossible_latencies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tmp_path / "original.onnx"
    save_model(parse(MODEL), original)
    cache = Cache(tmp_path / "cache")

    def impossible(kind: str, key: object) -> dict[str, float]:
        del kind, key
        return {ORIGINAL: 0.0}

    monkeypatch.setattr(cache, "get", impossible)

    with pytest.raises(DataError, match="must be above zero"):
        race_once([], original, FEEDS, threads=1, cache=cache, machine="here")


def test_digests_see_contents(tmp_path: Path) -> None:
    one, same, other = (_build(tmp_path, name, text) for name, text in (("1", "a"), ("2", "a"), ("3", "b")))

    assert folder_digest(one.folder) == folder_digest(same.folder) != folder_digest(other.folder)
    assert feeds_digest(FEEDS) != feeds_digest([{"x": np.zeros((1, 2), np.float32)}])
    assert feeds_digest(FEEDS) != feeds_digest([{"y": FEEDS[0]["x"]}])


def test_knobs_of_a_candidate_are_part_of_its_build(tmp_path: Path) -> None:
    text = MODEL.replace("(float[N, 2] x)", "(float[N, 2] x, float[1] t)").replace(
        "{ y = Relu (x) }", "<float[1] t = {0.5}> { y = Mul (x, t) }"
    )
    candidates = [
        Candidate(
            Plan(),
            parse(text),
            Cost(1.0, Trust.MEASURED),
            0.0,
            (OperatingPoint({"t": np.asarray([knob], np.float32)}, frozenset(), 1.0, 0.0),),
        )
        for knob in (0.25, 0.75)
    ]
    builds = build_all(
        candidates, [generator("onnxruntime")], load_target("cpu"), threads=1, batch=1, scratch=tmp_path
    )

    assert folder_digest(builds[0].folder) != folder_digest(builds[-1].folder)
