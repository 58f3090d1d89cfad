"""Schedules: how strong a family is at each of its sites, where sites offer ladders of settings.

    0  nothing    1  keep-0.85    2  keep-0.7    3  keep-0.5    a plan is one step of the ladder for each site

Three searchers give plans from weak to strong, each with what it loses and the work it leaves:

    g-search    one step at a time, at the site where that loses least for the work it saves
    p-sigmoid   the share of tokens left falls along the sites like a sigmoid; its floor, centre and steepness
                are found by Bayesian optimisation (tree-structured Parzen estimators, in optuna)
    allocator   every step measured alone, then the integer program of all families (``allocate``)

The first two measure plans as wholes, so that what steps do to each other is seen; the third measures the
fewest. Loss is measured and dear, work is predicted and free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations

from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.progress import Progress, Silent
from adapass.search.allocate import Interaction, Option, Problem, front

Plan = tuple[int, ...]
"""Step of each site, in the order of the sites; 0 leaves it as it is."""
STEEPEST, FLATTEST = 40.0, 2.0
LATEST = 1.2
"""Where the centre of a sigmoid may lie, in shares of the depth; beyond 1 only its beginning is seen."""
LOWEST = 0.02
TINY = 1e-9
TARGETS = (1.0, 0.5, 0.25)
"""Shares of the largest loss for which sigmoids are tuned."""
_SHARE = re.compile(r"-(?P<share>[01](?:\.\d+)?)$")


class Schedule(StrEnum):
    """How a plan is found."""

    G_SEARCH = "g-search"
    P_SIGMOID = "p-sigmoid"
    ALLOCATOR = "allocator"


@dataclass(frozen=True, slots=True)
class Ladder:
    """One site: its settings, the weakest first, and the share of what is there that each leaves."""

    site: str
    choices: tuple[Choice, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        falls = all(later < before for before, later in zip((1.0, *self.shares), self.shares, strict=False))
        if len(self.shares) != len(self.choices) or not falls or min(self.shares, default=1.0) < 0.0:
            raise UsageError(
                f"settings at '{self.site}' must leave falling shares below 1, found {list(self.shares)}"
            )


@dataclass(frozen=True, slots=True)
class Measure:
    """What a plan does."""

    loss: Callable[[Plan], float]
    """Mean loss of quality, measured."""
    work: Callable[[Plan], float]
    """Share of the work that is left, predicted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan and what it does."""

    plan: Plan
    loss: float
    work: float


@dataclass(frozen=True, kw_only=True)
class ScheduleSearch:
    """Options of the search for a schedule."""

    schedule: Schedule = Schedule.G_SEARCH
    max_loss: float = 0.05
    """Plans that lose more are of no interest."""
    lazy: bool = True
    """g-search: measure again only what looked best before (Minoux 1978); exact where steps that are put off
    do not become better."""
    trials: int = 48
    """p-sigmoid: sigmoids to try; those that give a plan seen before cost nothing."""
    steps: int = 16
    """allocator: plans along the front."""
    seed: int = 0
    """p-sigmoid: of the sampler."""

    def run(
        self, ladders: Sequence[Ladder], measure: Measure, progress: Progress | None = None
    ) -> tuple[Judged, ...]:
        """Plans within ``max_loss``, none of which another one beats in both; by rising loss.

        The plan that does nothing is always among what is compared.

        Raises:
            UsageError: there are no sites, or optuna is needed and not installed.

        """
        if not ladders:
            raise UsageError("a schedule needs sites; the family proposes none for this model")
        bench = _Bench(ladders, measure, progress or Silent())
        if self.schedule is Schedule.G_SEARCH:
            _climb(bench, self.max_loss, lazy=self.lazy)
        elif self.schedule is Schedule.P_SIGMOID:
            _tune(bench, self.max_loss, trials=self.trials, seed=self.seed)
        else:
            _allocate(bench, steps=self.steps)
        return bench.front(self.max_loss)


def best_within(found: Sequence[Judged], max_loss: float) -> Judged | None:
    """The plan with the least work that loses at most ``max_loss``."""
    within = [judged for judged in found if judged.loss <= max_loss]
    return min(within, key=lambda judged: (judged.work, judged.loss, judged.plan), default=None)


def ladders_of(
    choices: Sequence[Choice], share_of: Callable[[Choice], float] | None = None
) -> tuple[Ladder, ...]:
    """Ladders of the sites in ``choices``, in the order in which these appear.

    Raises:
        UsageError: a setting does not end in a share such as ``-0.7`` (and ``share_of`` is not given).

    """
    shares = {choice.key: (share_of or _stated)(choice) for choice in choices}
    sites: dict[str, list[Choice]] = {}
    for choice in choices:
        sites.setdefault(choice.site, []).append(choice)
    found: list[Ladder] = []
    for site, own in sites.items():
        ordered = sorted(own, key=lambda choice: -shares[choice.key])
        found.append(Ladder(site, tuple(ordered), tuple(shares[choice.key] for choice in ordered)))
    return tuple(found)


def chosen(ladders: Sequence[Ladder], plan: Plan) -> tuple[Choice, ...]:
    """The choices of a plan."""
    return tuple(ladder.choices[step - 1] for ladder, step in zip(ladders, plan, strict=True) if step)


def work_left(
    ladders: Sequence[Ladder], remaining: Mapping[str, Mapping[str, float]], amounts: Mapping[str, float]
) -> Callable[[Plan], float]:
    """Work as the families predict it: the shares that choices leave of a product multiply.

    ``remaining`` is by ``Choice.key``, then by product; ``amounts`` is the work of each product.
    """
    whole = sum(amounts.values())

    def work(plan: Plan) -> float:
        left = dict(amounts)
        for choice in chosen(ladders, plan):
            for product, share in remaining[choice.key].items():
                left[product] = left.get(product, 0.0) * share
        return sum(left.values()) / whole if whole else 1.0

    return work


def sigmoid_plan(ladders: Sequence[Ladder], floor: float, centre: float, steepness: float) -> Plan:
    """The plan whose share of what is left follows a sigmoid along the sites.

    The curve is ``floor + (1 - floor) / (1 + exp(steepness (x - centre)))``, ``x`` from 0 to 1. Settings are
    relative to what is there, so each site takes the step that brings the product so far closest to it.
    """
    plan: list[int] = []
    left = 1.0
    for place, ladder in enumerate(ladders):
        x = (place + 1) / len(ladders)
        wanted = floor + (1.0 - floor) / (1.0 + math.exp(steepness * (x - centre)))
        offered = (1.0, *ladder.shares)
        step = min(
            range(len(offered)), key=lambda i: (abs(math.log(max(left * offered[i], TINY) / wanted)), i)
        )
        left *= offered[step]
        plan.append(step)
    return tuple(plan)


@dataclass(slots=True)
class _Bench:
    """Measures every plan once."""

    ladders: Sequence[Ladder]
    measure: Measure
    progress: Progress
    known: dict[Plan, Judged] = field(default_factory=dict[Plan, Judged])

    def at(self, plan: Plan) -> Judged:
        if plan not in self.known:
            self.known[plan] = Judged(plan, self.measure.loss(plan), self.measure.work(plan))
            judged = self.known[plan]
            self.progress.step(
                len(self.known), 0, f"work {100 * judged.work:.1f} %, loss {100 * judged.loss:.2f} points"
            )
        return self.known[plan]

    @property
    def nothing(self) -> Judged:
        return self.at((0,) * len(self.ladders))

    def front(self, max_loss: float) -> tuple[Judged, ...]:
        nothing = self.nothing
        within = [nothing, *(judged for judged in self.known.values() if judged.loss <= max_loss)]
        kept: list[Judged] = []
        for judged in sorted(within, key=lambda j: (j.loss, j.work, j.plan)):
            if not kept or judged.work < kept[-1].work:
                kept.append(judged)
        return tuple(kept)


def _climb(bench: _Bench, max_loss: float, *, lazy: bool) -> None:
    """Greedy: from nothing, always the step with the least loss for its work."""
    here = bench.nothing
    prices = dict.fromkeys(range(len(bench.ladders)), -math.inf)
    while (site := _cheapest(bench, here, prices, max_loss, lazy=lazy)) is not None:
        here = bench.at(_up(here.plan, site))
        prices[site] = -math.inf


def _cheapest(
    bench: _Bench, here: Judged, prices: dict[int, float], max_loss: float, *, lazy: bool
) -> int | None:
    """The site of the cheapest step; ``prices`` are those of earlier plans, renewed as far as needed.

    Sites that have no step to take leave ``prices``: steps grow dearer on the way, not cheaper.
    """
    if not lazy:
        prices |= dict.fromkeys(prices, -math.inf)
    fresh: set[int] = set()
    while prices:
        site = min(prices, key=lambda index: (prices[index], index))
        if site in fresh:
            return site
        price = _price(bench, here, site, max_loss)
        if price is None:
            del prices[site]
            continue
        prices[site] = price
        fresh.add(site)
    return None


def _price(bench: _Bench, here: Judged, site: int, max_loss: float) -> float | None:
    """Loss for a unit of work of one more step at ``site``; ``None`` where there is no such step to take."""
    plan = _up(here.plan, site)
    if plan[site] > len(bench.ladders[site].choices) or bench.measure.work(plan) >= here.work:
        return None
    there = bench.at(plan)
    if there.loss > max_loss:
        return None
    return (there.loss - here.loss) / (here.work - there.work)


def _up(plan: Plan, site: int) -> Plan:
    return (*plan[:site], plan[site] + 1, *plan[site + 1 :])


def _tune(bench: _Bench, max_loss: float, *, trials: int, seed: int) -> None:
    """Bayesian optimisation of three numbers: the least work within a loss, for losses up to ``max_loss``."""
    from adapass.search.evolve import require_optuna

    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for part, target in enumerate(TARGETS):
        count = trials * (part + 1) // len(TARGETS) - trials * part // len(TARGETS)
        sampler = optuna.samplers.TPESampler(seed=seed + part)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for _ in range(count):
            asked = study.ask()
            floor = asked.suggest_float("floor", LOWEST, 1.0, log=True)
            centre = asked.suggest_float("centre", 0.0, LATEST)
            steepness = asked.suggest_float("steepness", FLATTEST, STEEPEST, log=True)
            judged = bench.at(sigmoid_plan(bench.ladders, floor, centre, steepness))
            beyond = judged.loss - target * max_loss
            study.tell(asked, judged.work if beyond <= 0.0 else 1.0 + beyond)


def _allocate(bench: _Bench, *, steps: int) -> None:
    """Steps measured alone are added up; what two of them save together is less than their sum."""
    nothing = bench.nothing
    alone: dict[str, tuple[int, Judged]] = {}
    for place, ladder in enumerate(bench.ladders):
        for step, choice in enumerate(ladder.choices, 1):
            plan = tuple(step if index == place else 0 for index in range(len(bench.ladders)))
            alone[choice.key] = place, bench.at(plan)
    options = [
        Option(key, bench.ladders[place].site, nothing.work - one.work, max(one.loss - nothing.loss, 0.0))
        for key, (place, one) in alone.items()
    ]
    interactions = [
        Interaction(first, second, saving=_overlap(bench, nothing, a, b))
        for (first, (place, a)), (second, (other, b)) in combinations(alone.items(), 2)
        if place != other
    ]
    problem = Problem(tuple(options), interactions=tuple(interactions))
    for allocation in front(problem, steps=steps):
        taken = {alone[key][0]: alone[key][1].plan[alone[key][0]] for key in allocation.chosen}
        bench.at(tuple(taken.get(index, 0) for index in range(len(bench.ladders))))


def _overlap(bench: _Bench, nothing: Judged, a: Judged, b: Judged) -> float:
    """What two steps save together, beyond the sum of what they save alone."""
    both = bench.measure.work(tuple(max(pair) for pair in zip(a.plan, b.plan, strict=True)))
    return (nothing.work - both) - (nothing.work - a.work) - (nothing.work - b.work)


def _stated(choice: Choice) -> float:
    found = _SHARE.search(choice.setting)
    if found is None:
        raise UsageError(
            f"the setting '{choice.setting}' at '{choice.site}' does not end in the share it keeps, such as "
            "keep-0.7; say which shares settings keep"
        )
    return float(found["share"])
