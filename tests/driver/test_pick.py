"""From certification to picking, on a small adaptive model: nothing is searched for, everything is run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.artifact import Kind, PointMeasure, Trust, load_artifact, points_of, read_artifact
from adapass.artifact.manifest import manifest_to_bytes
from adapass.artifact.plain import PlainRunner
from adapass.budgeted import OperatingPoint
from adapass.certify.certificate import Certificate
from adapass.certify.inversion import budget_grid, within
from adapass.cost.model import Cost
from adapass.cost.model import Trust as CostTrust
from adapass.driver.comparing import Comparison, Final, compare
from adapass.driver.context import Context
from adapass.driver.finals import Build, at_point
from adapass.driver.front import recipe_text
from adapass.driver.pick import Wish, choose, pick
from adapass.driver.points import aliases_of, points_to_measure
from adapass.driver.proof import Contestant, Proof, prove
from adapass.driver.recipe import read_plan
from adapass.driver.report import Result
from adapass.errors import BudgetError, UsageError
from adapass.ops import EXIT_THRESHOLDS
from adapass.search.judge import Judge
from adapass.target import load_target


class Served(Protocol):
    folder: Path
    result: Result
    adaptive: ir.Model
    build: Build
    proof: Proof
    final: Final
    comparison: Comparison
    context: Context
    judge: Judge
    feeds: dict[str, npt.NDArray[np.generic]]


def _module() -> ModuleType:
    place = Path(__file__).with_name("served.py")
    spec = importlib.util.spec_from_file_location("served_adaptive_model", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["if", "staged"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """One file with branches, or one file a stage; nobody may change it."""
    serve = cast("Callable[..., Served]", _module().serve)
    return serve(tmp_path_factory.mktemp("served"), variant=cast("str", request.param))


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

        assert [str(p.trust) for p in points] == ["measured", "modelled", "measured", "measured"]
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
        assert points_to_measure(served.proof.steps, 4) == (0, 2, 3)
        assert points_to_measure((), 4) == ()

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


class TestPicking:
    @pytest.mark.parametrize("name", ["safe", "p1", "balanced", "fast"])
    def test_a_picked_artifact_computes_what_the_point_computes(
        self, served: Served, tmp_path: Path, name: str
    ) -> None:
        picked = pick(served.folder, Wish(point=name), tmp_path / "picked.adapass")

        with load_artifact(served.folder, threads=1, point=name) as one:
            expected, taken = one.run(served.feeds), one.stats.exits
        with load_artifact(picked.artifact, threads=1) as other:
            found, found_taken = other.run(served.feeds), other.stats.exits
        np.testing.assert_array_equal(found["logits"], expected["logits"])
        assert found_taken == taken
        plain = PlainRunner(picked.artifact / "model.onnx", threads=1)
        outcome = plain.run(served.feeds)
        plain.close()
        plain_logits, logits = (
            np.asarray(each["logits"], np.float32) for each in (outcome.outputs, expected)
        )
        np.testing.assert_allclose(plain_logits, logits, rtol=2e-5, atol=2e-6)
        assert outcome.exits is not None
        assert tuple(outcome.exits.tolist()) == taken

    @pytest.mark.parametrize("position", range(4))
    def test_its_model_is_byte_for_byte_what_a_build_at_the_point_writes(
        self, served: Served, tmp_path: Path, position: int
    ) -> None:
        picked = pick(served.folder, Wish(point=f"p{position}"), tmp_path / "picked.adapass")

        build, folder = served.build, tmp_path / "built"
        folder.mkdir()
        point = served.proof.steps[position].contestant.point
        model = at_point(served.adaptive, point)
        build.generator.build(model, load_target("cpu"), folder, build.variant.options)
        for file in folder.iterdir():
            places = list(picked.artifact.rglob(file.name))
            assert len(places) == 1 or file.name == "model.onnx"
            assert all(place.read_bytes() == file.read_bytes() for place in places)

    def test_the_recipe_says_so_too(self, served: Served, tmp_path: Path) -> None:
        picked = pick(served.folder, Wish(point="p1"), tmp_path / "picked.adapass")

        knobs = read_plan(picked.artifact / "recipe.yaml").knobs
        assert knobs[EXIT_THRESHOLDS] == pytest.approx((0.98, 0.98))
        safe = pick(served.folder, Wish(point="safe"), tmp_path / "safe.adapass")
        assert read_plan(safe.artifact / "recipe.yaml").knobs[EXIT_THRESHOLDS] == (np.inf, np.inf)

    def test_picking_twice_gives_the_same_artifact(self, served: Served, tmp_path: Path) -> None:
        first = pick(served.folder, Wish(point="p1"), tmp_path / "first.adapass")
        again = pick(served.folder, Wish(point="p1"), tmp_path / "again.adapass")
        back = pick(first.artifact, Wish(point="fast"), tmp_path / "back.adapass")

        def hash_of(folder: Path) -> str:
            return read_artifact(folder).manifest.content_hash

        assert hash_of(first.artifact) == hash_of(again.artifact) != hash_of(served.folder)
        assert hash_of(back.artifact) == hash_of(served.folder)

    def test_the_manifest_is_that_of_the_point(self, served: Served, tmp_path: Path) -> None:
        picked = pick(served.folder, Wish(point="safe"), tmp_path / "picked.adapass")

        about = read_artifact(picked.artifact).manifest
        assert about.default_point == "p0"
        assert about.exits is not None
        assert about.exits.shares == (0.0, 0.0, 1.0)
        assert about.quality is not None
        assert about.quality.after == 1.0
        assert about.latency is not None
        assert about.latency.after_seconds == picked.point.seconds
        assert about.certificate is not None
        assert (about.certificate["position"], about.certificate["max_drop"]) == (0, 0.4)
        assert len(about.points) == 4

    def test_an_artifact_may_be_picked_onto_itself(self, served: Served, tmp_path: Path) -> None:
        mine = pick(served.folder, Wish(point="fast"), tmp_path / "mine.adapass").artifact

        pick(mine, Wish(point="safe"), mine)

        assert read_artifact(mine).manifest.default_point == "p0"

    def test_the_usual_place_is_the_current_folder(
        self, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        assert pick(served.folder, Wish(point="balanced")).artifact == Path("out-p2.adapass")
        assert pick(served.folder, Wish(point="p1"), Path("mine")).artifact == Path("mine.adapass")


class TestBudgets:
    def test_a_stricter_budget_keeps_the_points_certified_at_it(self, served: Served, tmp_path: Path) -> None:
        source = read_artifact(served.folder)
        drops = [point.certified_drop for point in source.manifest.points]
        for budget in np.linspace(drops[0], 0.39, 40):
            chosen = choose(source, Wish(max_drop=float(budget)))
            assert chosen.name == f"p{within(drops, float(budget)) - 1}"

        picked = pick(served.folder, Wish(max_drop=drops[1]), tmp_path / "strict.adapass")

        certificate = read_artifact(picked.artifact).manifest.certificate
        assert certificate is not None
        read = Certificate.from_dict(certificate)
        assert read.max_drop == drops[1] >= read.upper_bound
        assert read.p_value <= 0.05
        assert read_artifact(picked.artifact).recipe()["max-drop"] == drops[1]

    def test_a_larger_budget_gives_what_ships_at_the_tested_one(self, served: Served, tmp_path: Path) -> None:
        picked = pick(served.folder, Wish(max_drop=0.9), tmp_path / "large.adapass")

        assert picked.point.name == "p3"
        assert picked.certificate.max_drop == 0.4

    def test_a_budget_below_every_point_lists_what_there_is(self, served: Served, tmp_path: Path) -> None:
        with pytest.raises(
            BudgetError, match=r"nothing is certified at a drop of 0\.001;.*\n  p0 = safe: drop"
        ):
            pick(served.folder, Wish(max_drop=0.001), tmp_path / "picked.adapass")
        assert list(tmp_path.iterdir()) == []


class TestLatency:
    def test_the_most_careful_point_that_is_fast_enough(self, served: Served, tmp_path: Path) -> None:
        folder = _timed(served.folder, tmp_path, (4e-3, 3e-3, 2e-3, 1e-3))
        source = read_artifact(folder)

        assert choose(source, Wish(latency_seconds=1.0)).name == "p0"
        assert choose(source, Wish(latency_seconds=3e-3)).name == "p1"
        assert choose(source, Wish(latency_seconds=2.5e-3)).name == "p2"
        with pytest.raises(
            BudgetError, match=r"no point takes at most 0\.5 ms;(.|\n)*p3 = fast: drop .* 1\.000 ms"
        ):
            choose(source, Wish(latency_seconds=5e-4))


class TestRefusals:
    @pytest.mark.parametrize("wish", [{}, {"point": "safe", "max_drop": 0.1}, {"max_drop": 1.0}])
    def test_senseless_wishes(self, wish: dict[str, float | str]) -> None:
        with pytest.raises(UsageError):
            Wish(**wish)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def test_an_original_has_nothing_to_pick(self, served: Served, tmp_path: Path) -> None:
        source = read_artifact(served.folder)
        manifest = source.manifest.model_copy(update={"kind": Kind.ORIGINAL})

        with pytest.raises(UsageError, match="hands the original back"):
            choose(type(source)(source.folder, manifest), Wish(point="safe"))
        bare = source.manifest.model_copy(update={"points": (), "point_measures": (), "default_point": None})
        with pytest.raises(UsageError, match="no certified operating points"):
            choose(type(source)(source.folder, bare), Wish(point="safe"))

    def test_something_else_at_the_destination_is_left_alone(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "busy.adapass").mkdir()
        (tmp_path / "busy.adapass" / "thesis.txt").write_text("years of work")

        with pytest.raises(UsageError, match="not an artifact"):
            pick(served.folder, Wish(point="safe"), tmp_path / "busy.adapass")
        assert (tmp_path / "busy.adapass" / "thesis.txt").exists()


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


def _timed(folder: Path, scratch: Path, seconds: tuple[float, ...]) -> Path:
    """A copy whose points have taken these times."""
    copy = pick(folder, Wish(point="fast"), scratch / "timed.adapass").artifact
    manifest = read_artifact(copy).manifest
    measures = tuple(
        PointMeasure(name=m.name, aliases=m.aliases, seconds=s)
        for m, s in zip(manifest.point_measures, seconds, strict=True)
    )
    changed = manifest.model_copy(update={"point_measures": measures})
    (copy / "manifest.json").write_bytes(manifest_to_bytes(changed))
    return copy
