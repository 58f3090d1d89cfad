"""The allocator against enumeration, in exact arithmetic, and its guards."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.errors import BudgetError, UsageError
from adapass.search import allocate, allocate_highs, allocate_quiet, allocate_solve
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
from adapass.search.allocate_problem import Implication
from adapass.search.allocate_reduce import useful_options

SECONDS, DAMAGE, BYTES = 1e-5, 1e-6, 1e6
TICK = 2.0**-24
"""Sums of ticks are exact, so ties are ties."""
PROBLEMS = 200


@dataclass(frozen=True)
class Point:
    """One way to choose, with sums that are exact before they are rounded once."""

    chosen: frozenset[str]
    saving: float
    damage: float
    use: float


def enumerate_points(problem: Problem) -> Iterator[Point]:
    """All that the pairs allow, written down a second time and as plainly as possible."""
    slots: dict[str, list[str | None]] = {}
    for option in problem.options:
        slots.setdefault(option.slot, [None]).append(option.key)
    for row in itertools.product(*slots.values()):
        chosen = frozenset(key for key in row if key is not None)
        if any(a in chosen and b in chosen for a, b in problem.exclusions):
            continue
        if any(
            a in chosen and not chosen & set([b] if isinstance(b, str) else b)
            for a, b in problem.implications
        ):
            continue
        parts: list[Option | Interaction] = [option for option in problem.options if option.key in chosen]
        parts += [pair for pair in problem.interactions if {pair.first, pair.second} <= chosen]
        yield Point(
            chosen,
            exact_sum(part.saving for part in parts),
            exact_sum(part.damage for part in parts),
            exact_sum(part.use.get("bytes", 0.0) for part in parts),
        )


def any_of(keys: str | tuple[str, ...]) -> set[str]:
    return {keys} if isinstance(keys, str) else set(keys)


def exact_sum(values: Iterator[float]) -> float:
    return float(sum((Fraction(value) for value in values), Fraction(0)))


def random_problem(seed: int) -> Problem:
    """Up to five slots of up to three settings; every second one with many ties."""
    rng = np.random.default_rng(seed)
    draw = _ticks if seed % 2 else _continuous
    options = tuple(
        Option(
            f"{slot}.{number}",
            f"slot {slot}",
            draw(rng, SECONDS),
            draw(rng, DAMAGE),
            {"bytes": draw(rng, BYTES)} if rng.random() < 0.7 else {},
        )
        for slot in range(rng.integers(1, 6))
        for number in range(rng.integers(1, 4))
    )
    pairs = [(a, b) for a, b in itertools.combinations(options, 2) if a.slot != b.slot]
    interactions = tuple(
        Interaction(a.key, b.key, draw(rng, SECONDS), draw(rng, DAMAGE), {"bytes": draw(rng, BYTES)})
        for a, b in pairs
        if rng.random() < 0.15
    )
    exclusions = tuple((b.key, a.key) for a, b in pairs if rng.random() < 0.07)
    implications = tuple(_implications(rng, [option.key for option in options]))
    return Problem(options, exclusions, implications, interactions)


def _continuous(rng: np.random.Generator, scale: float) -> float:
    return float(scale * rng.lognormal(0, 1) * (1 if rng.random() < 0.75 else -1))


def _ticks(rng: np.random.Generator, scale: float) -> float:
    return float(rng.integers(-2, 5)) * TICK * 2.0 ** round(math.log2(scale / SECONDS))


def _implications(rng: np.random.Generator, keys: Sequence[str]) -> Iterator[Implication]:
    for _ in range(rng.integers(0, 3)):
        first, second, third = rng.choice(keys, 3).tolist()
        yield (first, second) if rng.random() < 0.5 else (first, (second, third))


def random_bounds(seed: int, points: Sequence[Point]) -> tuple[float, float, dict[str, float]]:
    """A saving, a damage and limits; on some seeds exactly what some choice reaches, on some out of reach."""
    rng = np.random.default_rng((seed, 1))
    one, other, third = (points[int(rng.integers(len(points)))] for _ in range(3))
    top, bottom = max(p.saving for p in points), min(p.damage for p in points)
    saving = (one.saving, 0.6 * top, 1.1 * top + TICK, top)[rng.integers(4)]
    damage = (one.damage, other.damage / 2, bottom - 1e-7, bottom)[rng.integers(4)]
    limits = {"bytes": third.use} if rng.random() < 0.7 else {}
    return saving, damage, limits


def keeps(point: Point, limits: Mapping[str, float]) -> bool:
    return point.use <= limits.get("bytes", math.inf)


def solve(call: Callable[[], Allocation]) -> Allocation | None:
    try:
        return call()
    except InfeasibleError:
        return None


def check(problem: Problem, points: Sequence[Point], found: Allocation | None, best: Point | None) -> None:
    """Same verdict, and the same numbers to the last bit."""
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    point = next(point for point in points if point.chosen == frozenset(found.chosen))
    assert (found.saving, found.damage) == (point.saving, point.damage)
    assert found.use.get("bytes", 0.0) == point.use
    assert (found.saving, found.damage) == (best.saving, best.damage)
    assert found.proven
    assert found.chosen == tuple(option.key for option in problem.options if option.key in point.chosen)


@pytest.mark.parametrize("block", range(10))
def test_equals_enumeration_both_ways(block: int) -> None:
    for seed in range(block, PROBLEMS, 10):
        compare_with_enumeration(seed)


@pytest.mark.parametrize("seed", [*range(15), 40, 292, 306])
def test_by_core_equals_enumeration_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocate_solve, "IN_FULL_UP_TO", 0)
    monkeypatch.setattr(allocate_highs, "FIRST_CORE", 1)
    monkeypatch.setattr(allocate_highs, "CORE_GROWTH", 2)

    compare_with_enumeration(seed)


def compare_with_enumeration(seed: int) -> None:
    problem = random_problem(seed)
    points = list(enumerate_points(problem))
    saving, damage, limits = random_bounds(seed, points)

    found = solve(lambda: minimize_damage(problem, min_saving=saving, limits=limits))
    allowed = [p for p in points if p.saving >= saving and keeps(p, limits)]
    check(problem, points, found, min(allowed, key=lambda p: (p.damage, -p.saving), default=None))

    found = solve(lambda: maximize_saving(problem, max_damage=damage, limits=limits))
    allowed = [p for p in points if p.damage <= damage and keeps(p, limits)]
    check(problem, points, found, min(allowed, key=lambda p: (-p.saving, p.damage), default=None))


def test_the_random_problems_are_not_all_alike() -> None:
    """Both verdicts, and every kind of pair, come up among them."""
    problems = [random_problem(seed) for seed in range(PROBLEMS)]
    verdicts = set[bool]()
    for seed in range(0, PROBLEMS, 10):
        points = list(enumerate_points(problems[seed]))
        saving, _, limits = random_bounds(seed, points)
        verdicts.add(any(p.saving >= saving and keeps(p, limits) for p in points))

    assert verdicts == {True, False}
    assert any(p.exclusions for p in problems)
    assert any(p.implications for p in problems)
    assert any(pair.damage < 0 for p in problems for pair in p.interactions)


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=15, deadline=None)
def test_does_not_depend_on_the_order_of_anything(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    shuffled = Problem(
        tuple(data.draw(st.permutations(problem.options))),
        tuple((b, a) for a, b in data.draw(st.permutations(problem.exclusions))),
        tuple(data.draw(st.permutations(problem.implications))),
        tuple(data.draw(st.permutations(problem.interactions))),
    )

    first = maximize_saving(problem, max_damage=2 * DAMAGE)
    second = maximize_saving(shuffled, max_damage=2 * DAMAGE)

    assert set(first.chosen) == set(second.chosen)
    assert (first.saving, first.damage, first.use) == (second.saving, second.damage, second.use)


@pytest.mark.parametrize("seed", range(12))
def test_front_is_made_of_optima_and_rises(seed: int) -> None:
    problem = random_problem(seed)
    points = list(enumerate_points(problem))
    largest = max(p.saving for p in points)

    found = front(problem, steps=7)

    assert [a.saving for a in found] == sorted({a.saving for a in found})
    assert [a.damage for a in found] == sorted({a.damage for a in found})
    assert found[0].saving >= min(0.0, largest)
    assert found[-1].saving == pytest.approx(largest, rel=1e-9)
    for allocation in found:
        assert not any(p.saving >= allocation.saving and p.damage < allocation.damage for p in points)


def test_front_starts_at_nothing_and_ends_at_the_largest_saving() -> None:
    problem = Problem(tuple(Option(f"{i}", f"{i}", (i + 1) * 1e-5, (i + 1) ** 2 * 1e-6) for i in range(4)))

    found = front(problem, steps=5)

    assert found[0].chosen == ()
    assert found[-1].chosen == ("0", "1", "2", "3")
    assert len(found) == 5


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
