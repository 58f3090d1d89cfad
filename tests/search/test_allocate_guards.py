"""The allocator's guards: hard cases by hand, what is infeasible, and what is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from adapass.errors import BudgetError, UsageError
from adapass.search import allocate, allocate_quiet
from adapass.search.allocate import (
    Allocation,
    InfeasibleError,
    Interaction,
    Option,
    Problem,
    front,
    maximize_saving,
    minimize_damage,
)
from adapass.search.allocate_reduce import useful_options
from tests.search.enumeration import TICK


def test_choosing_nothing_is_an_allocation() -> None:
    harmful = Problem((Option("a", "s", -1e-5, 1e-6),))

    for problem in (Problem(()), harmful):
        assert minimize_damage(problem, min_saving=0.0) == Allocation((), 0.0, 0.0, {}, 0.0)
        assert maximize_saving(problem, max_damage=0.0).chosen == ()
        assert [a.chosen for a in front(problem, steps=3)] == [()]


def test_leaves_out_what_is_never_worth_choosing() -> None:
    options = (
        Option("best", "s", 2.0, 1.0),
        Option("equal", "s", 2.0, 1.0),
        Option("worse", "s", 1.0, 1.0, {"bytes": -1.0}),
        Option("harmful", "t", -1.0, 0.0),
        Option("needed", "t", -1.0, 1.0),
    )
    problem = Problem(options, implications=(("best", "needed"),))

    def kept(limited: set[str]) -> list[str]:
        return [option.key for option in useful_options(problem, limited)]

    assert kept(set()) == ["best", "equal", "needed"]
    assert kept({"bytes"}) == ["best", "equal", "worse", "needed"]
    assert [o.key for o in useful_options(Problem(options), ())] == ["best"]


def test_takes_what_helps_for_nothing() -> None:
    problem = Problem((Option("helps", "s", 0.0, -1e-6), Option("hurts", "t", 0.0, 1e-6)))

    assert minimize_damage(problem, min_saving=0.0).chosen == ("helps",)


def test_among_equals_takes_the_larger_saving() -> None:
    """Two pairs of the same damage; only together does one of them save more."""
    options = tuple(Option(key, key, TICK, TICK) for key in "abcd")
    problem = Problem(options, interactions=(Interaction("b", "d", saving=TICK),))

    assert minimize_damage(problem, min_saving=2 * TICK).chosen == ("b", "d")


def test_a_bound_holds_where_the_solver_would_let_it_slip() -> None:
    """Less than HiGHS's tolerance short of the bound, and cheaper."""
    options = (Option("short", "s", 1e-5 * (1 - 1e-12), 1e-6), Option("enough", "s", 1e-5, 2e-6))

    found = minimize_damage(Problem(options), min_saving=1e-5)

    assert found.chosen == ("enough",)
    assert found.proven


def test_small_differences_next_to_large_numbers_count() -> None:
    options = (Option("a", "s", 1e-5, 1e-6), Option("b", "s", 1e-5 * (1 + 1e-7), 1e-6 * (1 + 1e-7)))
    far = Option("c", "t", 1e-5, 1e-4)

    assert minimize_damage(Problem((*options, far)), min_saving=1e-5).chosen == ("a",)
    assert maximize_saving(Problem((*options, far)), max_damage=1e-5).chosen == ("b",)


def test_too_much_saving_says_what_is_reachable() -> None:
    problem = Problem((Option("a", "s", 1e-5, 1e-6, {"bytes": 5.0}), Option("b", "t", 2e-5, 1e-6)))

    with pytest.raises(InfeasibleError, match=r"largest reachable saving is 3e-05"):
        minimize_damage(problem, min_saving=4e-5)
    with pytest.raises(InfeasibleError, match=r"saving within the limits is 2e-05"):
        minimize_damage(problem, min_saving=3e-5, limits={"bytes": 4.0})


def test_too_little_damage_says_what_is_reachable() -> None:
    with pytest.raises(InfeasibleError, match="smallest reachable damage is -2e-06"):
        maximize_saving(Problem((Option("a", "s", 0.0, -2e-6),)), max_damage=-3e-6)


def test_impossible_limits_say_how_little_is_possible() -> None:
    problem = Problem((Option("a", "s", 1e-5, 1e-6, {"bytes": -5.0}),))

    message = r"bytes at most -6 \(smallest reachable alone -5\)"

    with pytest.raises(InfeasibleError, match=message):
        minimize_damage(problem, min_saving=0.0, limits={"bytes": -6.0})
    with pytest.raises(InfeasibleError, match=message):
        maximize_saving(problem, max_damage=1.0, limits={"bytes": -6.0})


def test_a_limit_forces_a_costly_choice() -> None:
    problem = Problem((Option("a", "s", -1e-5, 1e-6, {"bytes": -5.0}),))

    assert minimize_damage(problem, min_saving=-1.0, limits={"bytes": -5.0}).chosen == ("a",)
    assert [a.chosen for a in front(problem, steps=2, limits={"bytes": -5.0})] == [("a",)]


A, B, C = Option("a", "s", 1.0, 1.0), Option("b", "t", 1.0, 1.0), Option("c", "s", 1.0, 1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda: Problem((A, replace(B, key="a"))), "two options have the key 'a'", id="same-key"
        ),
        pytest.param(lambda: Problem((A,), exclusions=(("a", "x"),)), "exclusion names 'x'", id="exclusion"),
        pytest.param(
            lambda: Problem((A,), exclusions=(("a", "a"),)), "'a' names it twice", id="excludes-itself"
        ),
        pytest.param(
            lambda: Problem((A,), implications=(("x", "a"),)), "implication names 'x'", id="implies"
        ),
        pytest.param(
            lambda: Problem((A,), implications=(("a", ("a", "x")),)), "names 'x'", id="any-of-unknown"
        ),
        pytest.param(lambda: Problem((A,), implications=(("a", ()),)), "'a' lists nothing", id="any-of-none"),
        pytest.param(
            lambda: Problem((A,), interactions=(Interaction("a", "x"),)),
            "interaction names 'x'",
            id="interacts",
        ),
        pytest.param(
            lambda: Problem((A, C), interactions=(Interaction("a", "c"),)), "within slot 's'", id="one-slot"
        ),
        pytest.param(
            lambda: Problem((A, B), interactions=(Interaction("a", "b"), Interaction("b", "a"))),
            "'b' and 'a' is given twice",
            id="twice",
        ),
        pytest.param(
            lambda: Problem((replace(A, saving=math.nan),)), "saving of option 'a' is nan", id="nan"
        ),
        pytest.param(
            lambda: Problem((replace(A, damage=math.inf),)), "damage of option 'a' is inf", id="inf"
        ),
        pytest.param(
            lambda: Problem((replace(A, use={"bytes": -1e200}),)), "use of bytes of option 'a'", id="huge"
        ),
        pytest.param(
            lambda: Problem((A, B), interactions=(Interaction("a", "b", damage=math.nan),)),
            "damage of the interaction of 'a' and 'b'",
            id="interaction-nan",
        ),
        pytest.param(lambda: Problem((A,)).totals(["x"]), "has the key 'x'", id="totals-of-unknown"),
        pytest.param(
            lambda: minimize_damage(Problem((A,)), min_saving=math.inf), "min_saving is inf", id="bound"
        ),
        pytest.param(
            lambda: maximize_saving(Problem((A,)), max_damage=math.nan), "max_damage is nan", id="no-bound"
        ),
        pytest.param(
            lambda: minimize_damage(Problem((A,)), min_saving=0.0, limits={"bytes": math.nan}),
            "the limit of bytes is nan",
            id="limit",
        ),
        pytest.param(
            lambda: minimize_damage(Problem((A,)), min_saving=0.0, time_limit_seconds=0.0),
            "time_limit_seconds is 0.0",
            id="no-time",
        ),
        pytest.param(lambda: front(Problem((A,)), steps=1), "steps is 1", id="one-step"),
    ],
)
def test_refuses_and_names_the_fault(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_says_that_the_time_was_too_short() -> None:
    options = tuple(Option(f"{i}", f"{i // 8}", 1e-5 * (i % 7 + 1), 1e-6 * (i % 11 + 1)) for i in range(800))

    with pytest.raises(BudgetError, match="limit was reached before any allocation was found"):
        minimize_damage(Problem(options), min_saving=3e-3, time_limit_seconds=1e-9)


def test_an_unfinished_proof_is_stated_as_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    options = tuple(
        Option(f"{i}", f"{i}", float(1e-5 * rng.uniform(1, 2)), float(1e-6 * rng.uniform(1, 2)))
        for i in range(60)
    )
    monkeypatch.setattr(allocate, "PROVEN_EFFORT", replace(allocate.PROVEN_EFFORT, relative_gap=0.5))

    found = minimize_damage(Problem(options), min_saving=4.5e-4)

    assert not found.proven
    assert 0 < found.gap < 0.5


def test_stray_lines_of_the_solver_are_dropped_and_others_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with allocate_quiet.without_stray_lines():
        os.write(1, allocate_quiet.STRAY + b"\nkept\n")
    print("after")

    assert capfd.readouterr().out == "kept\nafter\n"
