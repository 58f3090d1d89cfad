"""Mechanisms made of choices that can be combined: tokens left behind or merged, blocks taken out.

Every choice is tried alone, then the combinations that an integer program holds best. The oracle
picks from all plans tried, sample by sample: what no rule that chooses among them can beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapass.analyses.dataflow import name_of
from adapass.budgeted import BudgetedPass, Choice
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.passes.prospects.prospect import Doubles, Material, Place, Prospect, oracle_of
from adapass.passes.prune.remove_blocks_branches import find_branches
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
    work_left,
)

TOGETHER = 6
"""Combinations that are tried."""
EVERYTHING = 1e9
"""A loss above all: the oracle also learns from plans that are too bold for most samples."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How a family is looked at."""

    name: str
    how: str
    step: BudgetedPass
    share_of: Callable[[Choice], float] | None = None
    """Share of what is there that a setting keeps, where the setting does not say."""
    remaining: Callable[[Material, Choice], Mapping[str, float]] | None = None
    """Share of its work that each node keeps; asked of the family unless given."""
    fits: bool = True
    """Whether samples are given to fit on, where the family has something to fit."""


def look_at_plans(
    mechanism: Mechanism, material: Material, alone: Mapping[str, float] | None = None
) -> Prospect:
    """Measure what the choices of a family do to the check samples, alone and together.

    ``alone`` is what each does by itself, by ``Choice.key``, in any unit that adds up; it is measured unless
    given, and there are no rows for single sites where it is.
    """
    step, model = mechanism.step, material.model
    proposal = step.propose(model, FactCache(model))
    if not proposal.choices:
        why = proposal.refusals[0].reason if proposal.refusals else "there are no sites for it"
        return Prospect(mechanism.name, mechanism.how, unavailable=why)
    ladders = ladders_of(proposal.choices, mechanism.share_of)
    remaining = {choice.key: _remaining(mechanism, material, choice) for choice in proposal.choices}
    trial = _Trial(mechanism, material, ladders, alone or {})
    measure = Measure(trial.loss, work_left(ladders, remaining, material.amounts))
    search = ScheduleSearch(schedule=Schedule.ALLOCATOR, steps=TOGETHER, max_loss=EVERYTHING)
    search.run(ladders, measure, material.progress)
    works = {plan: measure.work(plan) for plan in trial.losses}
    tried = [Judged(plan, float(losses.mean()), works[plan]) for plan, losses in trial.losses.items()]
    best = best_within(tried, material.tolerance) or tried[0]
    single = () if alone is not None else _alone(trial, ladders, works, material)
    return Prospect(
        mechanism.name,
        mechanism.how,
        oracle=max(oracle_of(list(trial.losses.values()), list(works.values())), 1.0 - best.work),
        achievable=1.0 - best.work,
        lost=best.loss,
        divergence=trial.divergences[best.plan],
        places=(*single, _place("together", trial, best)),
        recipe=str(step),
    )


@dataclass
class _Trial:
    """Makes plans on copies and keeps what they lose, sample by sample."""

    mechanism: Mechanism
    material: Material
    ladders: tuple[Ladder, ...]
    alone: Mapping[str, float]

    def __post_init__(self) -> None:
        self.losses: dict[Plan, Doubles] = {}
        self.divergences: dict[Plan, float | None] = {}

    def loss(self, plan: Plan) -> float:
        step, material = self.mechanism.step, self.material
        changed = material.model
        choices = chosen(self.ladders, plan)
        if len(choices) == 1 and choices[0].key in self.alone:
            return self.alone[choices[0].key]
        if choices:
            changed = clone(material.model)
            step.apply(changed, FactCache(changed), choices)
            step.fit(changed, material.fit if self.mechanism.fits else None)
        output = material.outputs(changed)
        self.losses[plan] = material.judge.losses(output)
        self.divergences[plan] = material.damage(output).divergence
        return float(self.losses[plan].mean())


def _remaining(mechanism: Mechanism, material: Material, choice: Choice) -> Mapping[str, float]:
    if mechanism.remaining is not None:
        return mechanism.remaining(material, choice)
    return mechanism.step.remaining(material.model, material.facts, choice, material.check) or {}


def _alone(
    trial: _Trial, ladders: tuple[Ladder, ...], works: Mapping[Plan, float], material: Material
) -> list[Place]:
    """What each site can do without the others."""
    nothing = (0,) * len(ladders)
    rows: list[Place] = []
    for place, ladder in enumerate(ladders):
        steps = range(len(ladder.choices) + 1)
        own = [(*nothing[:place], step, *nothing[place + 1 :]) for step in steps]
        judged = [Judged(plan, float(trial.losses[plan].mean()), works[plan]) for plan in own]
        best = best_within(judged, material.tolerance) or judged[0]
        step = best.plan[place]
        rows.append(
            Place(
                site=ladder.site,
                setting=ladder.choices[step - 1].setting if step else "as it is",
                oracle=max(
                    oracle_of([trial.losses[plan] for plan in own], [works[plan] for plan in own]),
                    1.0 - best.work,
                ),
                achievable=1.0 - best.work,
                lost=best.loss,
                divergence=trial.divergences[best.plan],
            )
        )
    return rows


def _place(name: str, trial: _Trial, best: Judged) -> Place:
    made = chosen(trial.ladders, best.plan)
    setting = ", ".join(f"{choice.site}={choice.setting}" for choice in made) or "as it is"
    return Place(name, setting, None, 1.0 - best.work, best.loss, trial.divergences[best.plan])


def without_branches(material: Material, choice: Choice) -> Mapping[str, float]:
    """Nothing is left of the nodes of a branch that is taken out."""
    branches, _ = find_branches(material.model, material.facts)
    gone = [node for branch in branches if branch.site == choice.site for node in branch.nodes]
    return {name_of(node.outputs[0]): 0.0 for node in gone}
