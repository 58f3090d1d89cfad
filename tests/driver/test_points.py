"""From certification to an artifact with operating points: nothing is searched for, everything is run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.artifact import Trust, points_of, read_artifact
from adapass.budgeted import Feeds, OperatingPoint
from adapass.certify.inversion import budget_grid
from adapass.cost.model import Cost
from adapass.cost.model import Trust as CostTrust
from adapass.cost.timing import Ratio
from adapass.driver.comparing import compare
from adapass.driver.context import Context
from adapass.driver.front import recipe_text
from adapass.driver.points import PointTiming, aliases_of, first_faster, points_to_measure
from adapass.driver.proof import Contestant, prove
from adapass.driver.recipe import read_plan
from adapass.errors import UsageError
from adapass.generator import Generator, Outcome, Runner
from adapass.ops import EXIT_THRESHOLDS
from tests.driver.served import Served


class TestShipping:
    def test_every_step_of_the_shipped_build_that_passed_is_a_point(self, served: Served) -> None:
        points = points_of(read_artifact(served.folder).manifest)

        assert [p.title for p in points] == ["p0 = safe", "p1", "p2 = balanced", "p3 = fast"]
        assert points[0].knobs == {EXIT_THRESHOLDS: (None, None)}
        assert [p.is_default for p in points] == [False, False, False, True]
        thresholds = [p.knobs[EXIT_THRESHOLDS][0] for p in points[1:]]
        assert thresholds == pytest.approx([0.98, 0.9, 0.75])
        assert [row["passed"] for row in served.proof.tested] == [True] * 4 + [False]

    def test_certified_drops_are_those_of_the_walk(self, served: Served) -> None:
        points = points_of(read_artifact(served.folder).manifest)
        grid = budget_grid(0.4)

        assert all(point.certified_drop in grid for point in points)
        assert [p.certified_drop for p in points] == sorted(p.certified_drop for p in points)
        assert points[0].certified_drop < points[-1].certified_drop < 0.4

    def test_named_points_are_measured_and_the_others_estimated(self, served: Served) -> None:
        points = points_of(read_artifact(served.folder).manifest)

        assert {str(p.trust) for p in points} == {"measured"}
        assert all(p.ratio is not None and p.ratio[1] <= p.ratio[0] <= p.ratio[2] for p in points[2:])
        assert served.comparison.latency.after_seconds == points[-1].seconds
        assert all(p.seconds is not None and p.seconds > 0 for p in points)

    def test_exit_shares_and_depth_are_those_of_each_point(self, served: Served) -> None:
        points = points_of(read_artifact(served.folder).manifest)

        assert points[0].exits is not None
        assert points[0].exits.shares == (0.0, 0.0, 1.0)
        depths = [
            p.exits.mean_depth for p in points if p.exits is not None and p.exits.mean_depth is not None
        ]
        assert depths == sorted(depths, reverse=True)
        assert depths[0] == 1.0
        certain = served.feeds["certain"]
        assert points[-1].exits is not None
        assert points[-1].exits.shares[0] == np.mean(certain[:, 0] >= np.float32(0.75))

    def test_only_what_ships_is_measured_where_time_is_short(self, served: Served) -> None:
        assert points_to_measure(served.proof.steps, 1) == (3,)
        assert points_to_measure(served.proof.steps, 2) == (2, 3)
        assert points_to_measure(served.proof.steps, 3) == (0, 2, 3)
        assert points_to_measure(served.proof.steps, 4) == (0, 1, 2, 3)
        assert points_to_measure((), 4) == ()

    @pytest.mark.parametrize(
        ("ratios", "first"),
        [
            ({}, 0),
            ({0: 0.9, 1: 0.8, 5: 0.5}, 0),
            ({0: 1.3, 1: 0.8, 5: 0.5}, 1),
            ({0: 1.3, 1: 1.0, 4: 0.7, 5: 0.5}, 4),
            ({0: 0.9, 1: 1.1, 4: 0.7}, 4),
            ({0: 1.0}, 0),
        ],
    )
    def test_points_no_faster_than_the_original_are_not_offered(
        self, ratios: dict[int, float], first: int
    ) -> None:
        timed = {
            i: PointTiming(value, Ratio(value, 0.9 * value, 1.1 * value, 0.95)) for i, value in ratios.items()
        }

        assert first_faster(timed) == first

    def test_names_by_how_many_there_are(self, served: Served) -> None:
        steps = served.proof.steps

        assert aliases_of(steps[:1]) == {0: ("safe", "fast")}
        assert aliases_of(steps[:2]) == {0: ("safe",), 1: ("fast",)}
        assert aliases_of(steps[:3]) == {0: ("safe",), 1: ("balanced",), 2: ("fast",)}

    def test_the_front_says_what_happened_to_each_plan(self, served: Served) -> None:
        entries = read_artifact(served.folder).pareto()
        kinds = [entry["kind"] for entry in entries]

        assert kinds == ["candidate", "candidate", "original", *["step"] * 5]
        shipped, other = entries[:2]
        assert (shipped["chosen"], shipped["certified"], shipped["search_loss"]) == (True, True, 0.01)
        assert (other["chosen"], other["certified"], other["trust"]) == (False, False, "modelled")
        assert all("recipe" not in entry for entry in served.result.pareto)

    def test_a_plan_of_the_front_has_a_recipe_that_is_read_again(
        self, served: Served, tmp_path: Path
    ) -> None:
        entries = read_artifact(served.folder).pareto()
        (tmp_path / "recipe.yaml").write_text(recipe_text(entries, 1))

        assert read_plan(tmp_path / "recipe.yaml").knobs == {}
        with pytest.raises(UsageError, match="plan 2 \\(original\\) has no recipe"):
            recipe_text(entries, 2)
        with pytest.raises(UsageError, match="there is no plan 99; expected 0 to 7"):
            recipe_text(entries, 99)

    def test_the_report_shows_points_and_plans(self, served: Served) -> None:
        text = (served.folder / "report.html").read_text("utf-8")

        assert "<h2>Operating points</h2>" in text
        assert "p2 = balanced" in text
        assert "<h2>Plans tried</h2>" in text
        assert "<h2>Certified step by step</h2>" in text
        assert text.count("<circle") == 4 + 3


def test_points_cost_little_space(served: Served) -> None:
    """No second copy of the model: a few kilobytes a point."""
    raw = json.loads((served.folder / "manifest.json").read_bytes())

    assert len(json.dumps(raw["points"])) + len(json.dumps(raw["point_measures"])) < 4096 * len(raw["points"])


def test_without_a_device_nothing_is_timed(served: Served) -> None:
    class Watch:
        def seconds(self, model: ir.Model, options: object) -> Cost:
            del model, options
            return Cost(3e-3, CostTrust.MODEL)

    away = cast(
        "Context", SimpleNamespace(**{**vars(served.context), "device_present": False, "stopwatch": Watch})
    )

    found = compare(away, served.final, served.proof.steps)

    assert (found.ratio, found.points) == (None, {})
    assert (found.latency.before_seconds, found.latency.trust) == (3e-3, Trust.MODELLED)


def test_every_measured_point_runs_at_its_own_setting(served: Served) -> None:
    fed: set[tuple[float, ...] | None] = set()

    class Recorder:
        def __init__(self, runner: Runner) -> None:
            self._runner = runner

        def run(self, feeds: Feeds) -> Outcome:
            knob = feeds.get(EXIT_THRESHOLDS)
            fed.add(None if knob is None else tuple(np.asarray(knob, np.float64).round(3).tolist()))
            return self._runner.run(feeds)

        def close(self) -> None:
            self._runner.close()

    def load(folder: Path, *, threads: int) -> Recorder:
        return Recorder(served.build.generator.load(folder, threads=threads))

    watched = cast("Generator", SimpleNamespace(name="onnxruntime", load=load))
    final = replace(served.final, build=replace(served.final.build, generator=watched))

    found = compare(served.context, final, served.proof.steps, max_seconds=0.5)

    assert set(found.points) == {0, 1, 2, 3}
    assert fed == {None, (np.inf, np.inf), (0.98, 0.98), (0.9, 0.9)}  # what ships runs with what is built in


def test_a_step_in_front_that_needs_more_counts_for_all_behind_it(served: Served) -> None:
    """The walk at a budget between the two has ended before it gets to the careful step."""
    hungry, careful = (replace(served.build) for _ in range(2))
    first = Contestant(hungry, served.proof.steps[3].contestant.point)
    second = Contestant(careful, served.proof.steps[0].contestant.point)

    proof = prove(served.context, [first, second], served.judge)

    (step,) = proof.steps
    assert step.contestant is second
    assert step.certified_drop == served.proof.steps[3].certified_drop
    assert step.certified_drop > served.proof.steps[0].certified_drop
    assert proof.contestant is second


def test_nothing_certified_is_no_point(served: Served) -> None:
    failing = Contestant(served.build, _everyone_leaves(served))

    proof = prove(served.context, [failing], served.judge)

    assert (proof.certificate, proof.steps, proof.certified_builds) == (None, (), frozenset())
    assert proof.contestant is failing


def _everyone_leaves(served: Served) -> OperatingPoint:
    point = served.proof.steps[3].contestant.point
    assert point is not None
    return replace(point, knobs={EXIT_THRESHOLDS: np.zeros(2, np.float32)})
