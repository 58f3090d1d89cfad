"""From certification to picking, on a small adaptive model: nothing is searched for, everything is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapass.artifact import Kind, PointMeasure, load_artifact, read_artifact
from adapass.artifact.manifest import manifest_to_bytes
from adapass.artifact.plain import PlainRunner
from adapass.certify.certificate import Certificate
from adapass.certify.inversion import within
from adapass.driver.finals import at_point
from adapass.driver.pick import Wish, choose, pick
from adapass.driver.recipe import read_plan
from adapass.errors import BudgetError, UsageError
from adapass.ops import EXIT_THRESHOLDS
from adapass.target import load_target
from tests.driver.served import Served


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
        assert read.p_value == source.manifest.points[1].p_value <= 0.05
        assert read_artifact(picked.artifact).recipe()["max-drop"] == drops[1]

    def test_no_upper_bound_is_above_what_is_promised(self, served: Served, tmp_path: Path) -> None:
        copy = pick(served.folder, Wish(point="fast"), tmp_path / "copy.adapass").artifact
        manifest = read_artifact(copy).manifest
        loose = tuple(
            p.model_copy(update={"certificate": {**p.certificate, "upper_bound": 0.39}})
            for p in manifest.points
        )
        changed = manifest.model_copy(update={"points": loose})
        (copy / "manifest.json").write_bytes(manifest_to_bytes(changed))

        picked = pick(copy, Wish(max_drop=0.3), tmp_path / "strict.adapass")

        assert picked.certificate.upper_bound == picked.certificate.max_drop == 0.3

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
