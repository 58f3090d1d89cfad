"""Schedules on a problem whose best plans are known by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, product

import pytest

from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.search.schedules import (
    Judged,
    Ladder,
    Measure,
    Plan,
    Schedule,
    ScheduleSearch,
    best_within,
    chosen,
    ladders_of,
    sigmoid_plan,
    work_left,
)

SHARES = (0.7, 0.5, 0.3)
BUDGETS = (0.01, 0.03, 0.08)


def choices(sites: int) -> list[Choice]:
    return [
        Choice("prune-tokens", f"layer{site}", f"keep-{share}") for share in SHARES for site in range(sites)
    ]


@dataclass
class Layers:
    """Tokens left fall along the layers; each token dropped early loses more than one dropped late."""

    sites: int = 4
    weight: Callable[[int], float] = lambda site: 0.04 / (1.0 + site)
    coupling: float = 0.0
    measured: list[Plan] = field(default_factory=list[Plan])

    @property
    def ladders(self) -> tuple[Ladder, ...]:
        return ladders_of(choices(self.sites))

    def loss(self, plan: Plan) -> float:
        self.measured.append(plan)
        kept = [(1.0, *SHARES)[step] for step in plan]
        alone = sum(self.weight(site) * (1.0 - share) ** 2 for site, share in enumerate(kept))
        pairs = sum((1 - a) * (1 - b) for a, b in pairwise(kept))
        return alone + self.coupling * pairs

    def work(self, plan: Plan) -> float:
        left, total = 1.0, 1.0
        for step in plan:
            left *= (1.0, *SHARES)[step]
            total += left
        return total / (self.sites + 1)

    @property
    def measure(self) -> Measure:
        return Measure(self.loss, self.work)

    def best(self, budget: float) -> Judged:
        plans = product(range(4), repeat=self.sites)
        judged = [Judged(plan, self.loss(plan), self.work(plan)) for plan in plans]
        found = best_within(judged, budget)
        assert found is not None
        return found


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("coupling", [0.0, 0.01])
def test_close_to_the_best_plan_at_every_budget(schedule: Schedule, coupling: float) -> None:
    layers = Layers(coupling=coupling)
    pytest.importorskip("optuna")
    found = ScheduleSearch(schedule=schedule, max_loss=max(BUDGETS)).run(layers.ladders, layers.measure)

    assert found[0] == Judged((0, 0, 0, 0), 0.0, 1.0)
    for earlier, later in pairwise(found):
        assert earlier.loss < later.loss <= max(BUDGETS)
        assert earlier.work > later.work
    for budget in BUDGETS:
        best, reached = layers.best(budget), best_within(found, budget)
        assert reached is not None
        assert reached.loss == layers.loss(reached.plan) <= budget
        assert 1.0 - reached.work > 0.8 * (1.0 - best.work)


def test_g_search_takes_the_step_with_the_least_loss_for_its_work() -> None:
    """Two layers, worked out by hand: the second layer first, although the first one saves more."""
    losses: dict[Plan, float] = {
        (0, 0): 0.0,
        (1, 0): 0.2,
        (0, 1): 0.01,
        (1, 1): 0.3,
        (0, 2): 0.03,
        (1, 2): 0.4,
    }
    works: dict[Plan, float] = {(0, 0): 1.0, (1, 0): 0.5, (0, 1): 0.8, (1, 1): 0.4, (0, 2): 0.7, (1, 2): 0.35}
    ladders = tuple(
        ladders_of([Choice("f", "a", "keep-0.5"), Choice("f", "b", "keep-0.8"), Choice("f", "b", "keep-0.6")])
    )

    measured: list[Plan] = []

    def loss(plan: Plan) -> float:
        measured.append(plan)
        return losses[plan]

    found = ScheduleSearch(max_loss=1.0).run(ladders, Measure(loss, works.__getitem__))

    assert measured == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)]
    assert [judged.plan for judged in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]


def test_g_search_takes_no_step_that_saves_nothing_or_loses_too_much() -> None:
    """At ``a`` the second step saves nothing more; every step at ``b`` loses too much."""
    works: dict[Plan, float] = {(0, 0): 1.0, (1, 0): 0.7, (2, 0): 0.7, (0, 1): 0.5, (1, 1): 0.4, (2, 1): 0.4}
    measured: list[Plan] = []

    def loss(plan: Plan) -> float:
        measured.append(plan)
        return 0.01 * plan[0] + 0.2 * plan[1]

    offered = [Choice("f", "a", "keep-0.7"), Choice("f", "a", "keep-0.5"), Choice("f", "b", "keep-0.5")]
    found = ScheduleSearch(max_loss=0.1).run(ladders_of(offered), Measure(loss, works.__getitem__))

    assert measured == [(0, 0), (1, 0), (0, 1)]
    assert [judged.plan for judged in found] == [(0, 0), (1, 0)]


def test_lazy_measures_less_and_finds_the_same_where_steps_do_not_become_better() -> None:
    lazy, eager = Layers(sites=6), Layers(sites=6)

    first = ScheduleSearch(lazy=True, max_loss=0.05).run(lazy.ladders, lazy.measure)
    second = ScheduleSearch(lazy=False, max_loss=0.05).run(eager.ladders, eager.measure)

    assert len(set(lazy.measured)) == len(lazy.measured) < 0.8 * len(eager.measured)
    a, b = best_within(first, 0.05), best_within(second, 0.05)
    assert a is not None
    assert b is not None
    assert a.work == pytest.approx(b.work, rel=0.02)


def test_a_sigmoid_that_is_the_truth_is_found() -> None:
    """Only plans along one sigmoid are without loss."""
    pytest.importorskip("optuna")
    layers = Layers(sites=6)
    truth = sigmoid_plan(layers.ladders, 0.1, 0.5, 12.0)

    def loss(plan: Plan) -> float:
        return 0.02 * sum(max(step - most, 0) for step, most in zip(plan, truth, strict=True))

    search = ScheduleSearch(schedule=Schedule.P_SIGMOID, max_loss=0.01, trials=60)
    found = best_within(search.run(layers.ladders, Measure(loss, layers.work)), 0.01)

    assert found is not None
    assert 1.0 - found.work > 0.75 * (1.0 - layers.work(truth))
    assert search.run(layers.ladders, Measure(loss, layers.work))[-1] == found


def test_steps_follow_the_sigmoid_and_what_was_rounded_before() -> None:
    """Shares left of 1, 0.5 and 0.25 along the curve, where each site can only halve."""
    ladders = tuple(Ladder(f"l{i}", (Choice("f", f"l{i}", "keep-0.5"),), (0.5,)) for i in range(8))

    plan = sigmoid_plan(ladders, 0.25, 0.5, 20.0)

    assert sum(plan) == 2
    assert plan[:3] == (0, 0, 0)
    assert sigmoid_plan(ladders, 1.0, 0.5, 20.0) == (0,) * 8


def test_the_allocator_knows_that_two_steps_share_what_they_save() -> None:
    """Losses that add up: the front then holds the best plan of every saving it is asked for."""
    layers = Layers(sites=3)
    found = ScheduleSearch(schedule=Schedule.ALLOCATOR, steps=12, max_loss=1.0).run(
        layers.ladders, layers.measure
    )

    assert len(layers.measured) <= 1 + 9 + 12
    for judged in found:
        assert judged.work <= layers.best(judged.loss + 1e-9).work + 0.03


def test_ladders_are_by_site_from_weak_to_strong() -> None:
    ladders = ladders_of(choices(2))

    assert [ladder.site for ladder in ladders] == ["layer0", "layer1"]
    assert ladders[0].shares == SHARES
    assert [choice.setting for choice in ladders[1].choices] == ["keep-0.7", "keep-0.5", "keep-0.3"]
    assert [choice.key for choice in chosen(ladders, (0, 2))] == ["prune-tokens:layer1=keep-0.5"]
    assert chosen(ladders, (0, 0)) == ()


def test_work_of_choices_multiplies_product_by_product() -> None:
    ladders = ladders_of(choices(2))
    remaining = {
        "prune-tokens:layer0=keep-0.5": {"a": 0.5, "b": 0.5},
        "prune-tokens:layer1=keep-0.7": {"b": 0.7},
    }
    work = work_left(ladders, remaining, {"a": 100.0, "b": 200.0, "c": 100.0})

    assert work((0, 0)) == 1.0
    assert work((2, 0)) == pytest.approx((50 + 100 + 100) / 400)
    assert work((2, 1)) == pytest.approx((50 + 70 + 100) / 400)


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ([Choice("f", "a", "skip-some")], "does not end in the share"),
        ([Choice("f", "a", "keep-1.0")], "falling shares below 1"),
        ([Choice("f", "a", "keep-0.5"), Choice("f", "a", "mass-0.5")], "falling shares below 1"),
    ],
    ids=["no-share", "keeps-all", "twice-the-same"],
)
def test_settings_that_make_no_ladder_are_refused(offered: list[Choice], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ladders_of(offered)


def test_other_words_for_shares() -> None:
    """``skip-25`` leaves three quarters."""
    offered = [Choice("f", "a", f"skip-{percent}") for percent in (50, 25)]
    (ladder,) = ladders_of(offered, lambda choice: 1.0 - int(choice.setting[5:]) / 100)
    assert [choice.setting for choice in ladder.choices] == ["skip-25", "skip-50"]


def test_nothing_to_search() -> None:
    with pytest.raises(UsageError, match="proposes none"):
        ScheduleSearch().run((), Measure(lambda plan: 0.0, lambda plan: 1.0))
