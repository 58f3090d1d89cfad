"""The joint problem of static choices and schedules of run-time knobs."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage, OperatingPoint
from adapass.search.allocate import InfeasibleError
from adapass.search.joint import (
    JointProblem,
    Rates,
    Schedule,
    beside,
    plan_of,
    schedules_of,
    without_statics,
)
from adapass.search.plan import Part
from adapass.search.statics import StaticOption
from adapass.text_form import parse_pass

STEP = cast("BudgetedPass", parse_pass("quantize-8bit"))
KNOBS = cast("BudgetedPass", parse_pass("insert-exits"))


def _option(site: str, saving: float, damage: float, depth: float, **more: object) -> StaticOption:
    choice = replace(Choice("quantize-8bit", site, "static"), **more)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return StaticOption(STEP, choice, saving, Damage(damage, damage), depth, saved_bytes=100)


def _schedule(saving: float, loss: float, *reach: tuple[float, float]) -> Schedule:
    knobs = {"t": np.zeros(1, np.float32)}
    point = OperatingPoint(knobs, frozenset({"cut"}), 10.0 - saving, loss, reach=reach)
    return Schedule(KNOBS, point, saving)


def _problem(*schedules: Schedule, rate: float = 1.0) -> JointProblem:
    statics = (_option("early", 1.0, 0.001, 0.1), _option("late", 4.0, 0.004, 0.9))
    return JointProblem(statics, schedules, Rates(rate), classes=True)


def _sites(statics: tuple[StaticOption, ...]) -> list[str]:
    return [option.choice.site for option in statics]


def test_without_knobs_the_best_saving_within_the_loss_is_found() -> None:
    assert _sites(_problem().fastest(0.004).statics) == ["late"]
    assert _sites(_problem().fastest(0.005).statics) == ["early", "late"]
    assert _problem().fastest(0.0).statics == ()


def test_a_saving_counts_only_where_samples_get_to() -> None:
    # One sample in ten gets behind the exit at half the depth: 8 bits there are worth 0.4, not 4.
    problem = _problem(_schedule(4.5, 0.002, (0.5, 0.1)))
    chosen = problem.fastest(0.003)

    assert chosen.schedule is not None
    assert _sites(chosen.statics) == ["early"]
    assert chosen.saving == pytest.approx(5.5)
    assert problem.fastest(0.007).saving == pytest.approx(4.5 + 1.0 + 0.4)


def test_an_exit_that_takes_the_saving_of_a_better_choice_is_not_chosen() -> None:
    chosen = _problem(_schedule(3.0, 0.001, (0.5, 0.1))).fastest(0.005)

    assert chosen.schedule is None
    assert chosen.saving == pytest.approx(5.0)


def test_the_safest_plan_that_saves_enough() -> None:
    problem = _problem(_schedule(4.5, 0.002, (0.5, 0.1)))

    assert problem.safest(4.0).schedule is not None
    assert problem.safest(4.0).statics == ()
    with pytest.raises(InfeasibleError):
        problem.safest(9.0)


def test_reach_falls_with_depth() -> None:
    schedule = _schedule(1.0, 0.0, (0.2, 0.7), (0.6, 0.3))

    assert [schedule.reach(depth) for depth in (0.0, 0.2, 0.5, 0.6, 1.0)] == [1.0, 0.7, 0.7, 0.3, 0.3]


def test_exclusions_and_needs_of_choices_bind() -> None:
    one = _option("a", 1.0, 0.0, 0.0, excludes=frozenset({("quantize-8bit", "b")}))
    other, needy = (
        _option("b", 2.0, 0.0, 0.0),
        _option("c", 3.0, 0.0, 0.0, needs=frozenset({("quantize-8bit", "a")})),
    )
    chosen = JointProblem((one, other, needy), (), Rates(1.0), classes=True).fastest(1.0)

    assert _sites(chosen.statics) == ["a", "c"]


def test_a_size_is_a_bound_like_any_other() -> None:
    assert _problem().fastest(1.0, max_bytes=-150).statics == _problem().statics
    with pytest.raises(InfeasibleError):
        _problem().fastest(0.001, max_bytes=-150)


def test_what_the_body_did_is_taken_out_of_a_schedule_again() -> None:
    problem = _problem()
    alone = _schedule(4.5, 0.002, (0.5, 0.1))
    on_body = replace(alone, saving=4.5 + 1.0 + 0.4, point=replace(alone.point, loss=0.007))
    found = without_statics(on_body, problem.statics, problem.rates, classes=True)

    assert found.saving == pytest.approx(alone.saving)
    assert found.point.loss == pytest.approx(alone.point.loss)


def test_schedules_are_spread_over_the_path() -> None:
    points = [_schedule(float(saving), 0.0).point for saving in range(24)]

    found = schedules_of(KNOBS, points, 10.0)

    assert len(found) == 8
    assert (found[0].saving, found[-1].saving) == (0.0, 23.0)
    assert [s.saving for s in schedules_of(KNOBS, points[:1], 10.0)] == [0.0]
    assert schedules_of(KNOBS, [], 10.0) == []


def test_knobs_come_first_in_a_plan() -> None:
    knobs = Part(KNOBS, (Choice("insert-exits", "cut", "auto"),))
    plan = plan_of(_problem().statics, knobs)

    assert [part.step.name for part in plan.parts] == ["insert-exits", "quantize-8bit"]
    assert [choice.site for choice in plan.parts[1].choices] == ["early", "late"]
    assert plan_of((), None).parts == ()


def test_knobs_leave_out_the_sites_that_static_choices_exclude() -> None:
    cuts = tuple(Choice("insert-exits", site, "auto") for site in ("a", "b"))
    knobs = Part(KNOBS, cuts)
    free, hides_a = (
        _option("x", 1.0, 0.0, 0.5),
        _option("y", 1.0, 0.0, 0.5, excludes=frozenset({("insert-exits", "a")})),
    )
    hides_b = _option("z", 1.0, 0.0, 0.5, excludes=frozenset({("insert-exits", "b"), ("other", "a")}))

    assert beside(knobs, [free]) == knobs
    assert beside(knobs, [free, hides_a]) == Part(KNOBS, cuts[1:])
    assert beside(knobs, [hides_b]) == Part(KNOBS, cuts[:1])
    assert beside(knobs, [hides_a, hides_b]) is None
