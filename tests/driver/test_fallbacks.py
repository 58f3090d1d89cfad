"""Plans to fall back on when the fastest one proves too bold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, OperatingPoint
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.cost.model import Cost, Trust
from adapass.driver.choosing import fallbacks, in_float
from adapass.driver.finals import ORIGINAL, Build
from adapass.driver.proof import MAX_SAFER, Contestant, safer_steps, sequence
from adapass.generator import Variant
from adapass.search.plan import Part, Plan
from adapass.search.trials import Candidate
from adapass.text_form import parse_pass

STEP = cast("BudgetedPass", parse_pass("quantize-8bit"))
MODEL = ir.Model(ir.Graph([], [], nodes=[], name="g"), ir_version=10)
POINT = OperatingPoint({"t": np.zeros(1, np.float32)}, frozenset(), 0.1, 0.0)


def candidate(sites: int, seconds: float, risk: float) -> Candidate:
    choices = tuple(Choice(STEP.name, f"s{i}", "static") for i in range(sites))
    plan = Plan((Part(STEP, choices),) if sites else ())
    # Of what was lost on the search samples nothing follows: the boldest plan was the luckiest.
    return Candidate(plan, MODEL, Cost(seconds, Trust.MEASURED), -risk, (), risk, risk)


CLEAN = candidate(0, 1.0, 0.0)
BOLD, MIDDLE, SAFE, SAFER_BUT_SLOWER = (
    candidate(4, 0.3, 0.012),
    candidate(3, 0.4, 0.009),
    candidate(2, 0.5, 0.006),
    candidate(1, 0.6, 0.007),
)
FOUND = [BOLD, MIDDLE, SAFE, SAFER_BUT_SLOWER, CLEAN]


def build(of: Candidate, variant: str = "plain") -> Build:
    return Build(of, OnnxRuntime(), Variant(variant, {}), Path(variant), label=f"{of.plan}")


def test_the_fastest_of_each_share_of_the_risk() -> None:
    assert fallbacks(FOUND, [BOLD]) == [MIDDLE, SAFE]
    assert fallbacks(FOUND, [BOLD, MIDDLE]) == [SAFE]
    assert fallbacks(FOUND, [with_path(BOLD, (0.1, 0.02))]) == [MIDDLE, SAFE]


@pytest.mark.parametrize("chosen", [[], [CLEAN], [SAFE]], ids=["none", "clean", "safest"])
def test_nothing_to_fall_back_from(chosen: list[Candidate]) -> None:
    assert fallbacks(FOUND, chosen) == []


def test_the_sequence_goes_from_safe_to_bold() -> None:
    builds = [build(each) for each in FOUND]
    seconds = {each.name: each.candidate.seconds.seconds for each in builds}
    fast, exact = builds[0], builds[-1]

    safer = safer_steps(fast, builds, seconds)

    assert [each.build.candidate for each in safer] == [SAFE, MIDDLE]
    order = [step.build.candidate for step in sequence(fast, exact, None, safer)]
    assert order == [CLEAN, SAFE, MIDDLE, BOLD]


def with_path(of: Candidate, *path: tuple[float, float]) -> Candidate:
    """``of`` with a setting of its knobs for each pair of expected seconds and risk, the boldest last."""
    points = tuple(replace(POINT, expected_seconds=seconds) for seconds, _ in path)
    seconds = Cost(path[-1][0], Trust.MEASURED)
    return replace(of, points=points, point_risks=tuple(risk for _, risk in path), seconds=seconds)


def test_settings_of_knobs_are_steps_of_their_own() -> None:
    path = with_path(SAFE, (0.55, 0.0065), (0.45, 0.008), (0.32, 0.011), (0.2, 0.02))
    builds = [build(BOLD), build(path, "path"), build(MIDDLE, "middle")]
    # The build was timed at the boldest setting: twice as fast as expected there, and everywhere.
    seconds = {builds[0].name: 0.1, builds[1].name: 0.1, builds[2].name: 0.2}

    safer = safer_steps(builds[0], builds, seconds)

    assert [(each.build, each.point) for each in safer] == [
        (builds[1], path.points[0]),
        (builds[1], path.points[1]),
        (builds[2], None),  # as safe as no setting that is as fast
        (builds[1], path.points[2]),
    ]
    assert all(isinstance(each, Contestant) for each in safer)


def test_few_steps_are_in_front_of_the_fastest_build() -> None:
    path = with_path(SAFE, *((0.9 - 0.05 * step, 0.001 + 0.001 * step) for step in range(9)))
    builds = [build(BOLD), build(path, "path")]

    safer = safer_steps(builds[0], builds, {builds[0].name: 0.3, builds[1].name: 0.5})

    assert len(safer) == MAX_SAFER
    assert (safer[0].point, safer[-1].point) == (path.points[0], path.points[-1])


def test_nothing_slower_or_bolder_than_what_it_backs_up() -> None:
    fast, same, safe = build(BOLD), build(BOLD, "again"), build(SAFE, "safe")
    seconds = {fast.name: 0.3, same.name: 0.4, safe.name: 0.25}

    assert safer_steps(fast, [fast, same, safe], seconds) == []
    assert safer_steps(safe, [fast, same, safe], seconds) == []


@pytest.mark.parametrize("bar", ["original", "exact"])
def test_careful_settings_that_are_slower_than_what_is_safe_anyway_are_left_out(bar: str) -> None:
    path = with_path(SAFE, (0.6, 0.004), (0.45, 0.008))
    fast, knobs, exact = build(BOLD), build(path, "path"), build(CLEAN, "exact")
    builds = [fast, knobs, *([exact] if bar == "exact" else [])]
    seconds = {
        fast.name: 0.3,
        knobs.name: 0.45,
        exact.name: 0.55,
        ORIGINAL: 0.55 if bar == "original" else 1.0,
    }

    assert safer_steps(fast, builds, seconds) == [Contestant(knobs, path.points[1])]


def test_a_plan_with_knobs_is_fallen_back_on_for_its_safe_settings() -> None:
    path = with_path(CLEAN, (0.45, 0.005), (0.35, 0.02))
    path = replace(path, plan=SAFE.plan)

    assert fallbacks([BOLD, path, SAFE, CLEAN], [BOLD]) == [path]
    assert fallbacks([BOLD, with_path(MIDDLE, (0.35, 0.02)), SAFE], [BOLD]) == [SAFE]


def test_of_a_plan_the_fastest_build_counts() -> None:
    slow, quick = build(SAFE), build(SAFE, "quiet")
    bold = build(BOLD)

    safer = safer_steps(bold, [slow, quick], {bold.name: 0.3, slow.name: 0.7, quick.name: 0.5})

    assert safer == [Contestant(quick, None)]


def test_half_precision_gets_the_plans_without_precision() -> None:
    blocks = cast("BudgetedPass", parse_pass("remove-blocks"))
    knobs = cast("BudgetedPass", parse_pass("insert-exits"))
    gone = Part(blocks, (Choice("remove-blocks", "b", "remove"),))
    other = Part(blocks, (Choice("remove-blocks", "c", "remove"),))
    exits = Part(knobs, (Choice("insert-exits", "e", "linear"),))
    eight = BOLD.plan.parts[0]

    def made(*parts: Part) -> Candidate:
        return replace(BOLD, plan=Plan(parts))

    both, alone, elsewhere, early = made(gone, eight), made(gone), made(other), made(exits, gone)
    found = [both, elsewhere, alone, early, CLEAN]

    assert in_float(found, [both]) == [alone]
    assert in_float(found, [made(exits, gone, eight)]) == [early]
    assert in_float(found, [both, alone, CLEAN]) == []
    assert in_float(found, [BOLD]) == []


def test_half_precision_of_the_clean_model_is_a_step_between() -> None:
    half = Build(CLEAN, OnnxRuntime(), Variant("half", {}, exact=False), Path("half"), label="clean half")
    builds = [*(build(each) for each in FOUND), half]
    seconds = {each.name: each.candidate.seconds.seconds for each in builds} | {half.name: 0.35}

    safer = safer_steps(builds[0], builds, seconds)

    # Nothing else is as safe and as fast; as the fastest of all it needs no step in front of itself.
    assert safer == [Contestant(half, None)]
    assert safer_steps(half, builds, seconds) == []
