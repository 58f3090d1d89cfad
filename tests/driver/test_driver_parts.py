"""Pieces of the main job: requests, the sequence that is certified, recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapass.budgeted import OperatingPoint
from adapass.driver.clean import split_passes
from adapass.driver.proof import MAX_POINTS, path_of
from adapass.driver.recipe import read_plan
from adapass.driver.request import Mode, Request
from adapass.errors import RecipeError, UsageError


def _point(seconds: float) -> OperatingPoint:
    return OperatingPoint({"t": np.full(2, seconds, np.float32)}, frozenset({"a"}), seconds, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drop": 1.0}, "max_drop is 1.0"),
        ({"max_drop": -0.1}, "max_drop is -0.1"),
        ({"confidence": 0.4}, "confidence is 0.4"),
        ({"threads": 0}, "threads is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"time_limit_seconds": 0.0}, "time_limit_seconds is 0.0"),
        ({"latency_target_seconds": -1.0}, "latency_target_seconds is -1.0"),
    ],
)
def test_senseless_requests_are_refused_at_once(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request(**changes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_path_starts_neutral_and_keeps_its_ends() -> None:
    path = path_of([_point(seconds) for seconds in np.linspace(9, 1, 40)])

    assert path[0] is not None
    assert path[-1] is not None
    assert np.isinf(path[0].knobs["t"]).all()
    assert len(path) == MAX_POINTS + 1
    assert path[-1].expected_seconds == 1.0
    assert path_of([]) == [None]


def test_the_path_ends_where_it_is_fast_enough() -> None:
    path = path_of([_point(seconds) for seconds in (5.0, 4.0, 3.0, 2.0)], 3.5)

    assert [point.expected_seconds for point in path[1:] if point is not None] == [5.0, 4.0, 3.0]


def test_modes_search_over_their_families() -> None:
    quick, extensive = (split_passes(Request(mode=mode))[1] for mode in (Mode.QUICK, Mode.EXTENSIVE))

    assert [step.name for step in quick] == ["quantize-8bit", "insert-exits"]
    assert len(extensive) > len(quick)
    exact, none = split_passes(Request(passes="fold-constants"))
    assert (str(exact), none) == ("fold-constants", ())
    assert "quantize-8bit" not in {s.name for s in split_passes(Request(skip_passes=("quantize-8bit",)))[1]}
    with pytest.raises(RecipeError, match="cannot skip unknown passes nothing"):
        split_passes(Request(skip_passes=("nothing",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("schema: 2\n", "schema is 2", id="newer"),
        pytest.param("schema: 1\nknobs: 3\n", "'knobs' must map", id="knobs-are-a-number"),
        pytest.param("schema: 1\nknobs: {t: [high]}\n", "knob 't' is", id="knob-is-a-word"),
    ],
)
def test_bad_recipes_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)

    with pytest.raises(RecipeError, match=message):
        read_plan(tmp_path / "recipe.yaml")


def test_infinite_thresholds_survive_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("schema: 1\nknobs: {t: [0.5, inf]}\n")

    assert read_plan(tmp_path / "recipe.yaml").knobs == {"t": (0.5, float("inf"))}
