"""Cut a little, heal a little: structural choices in stages, each healed before the next one.

    clean -> cut -> heal -> cut more -> heal -> ...        the last stage that keeps the budget counts

Healing recovers more from several small cuts than from a large one (Adapt-Pruner, arXiv:2502.03460), and how
much it recovers is not predicted by the damage of the cut: so every stage is judged. What came out is where
the search over the other families begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import onnx_ir as ir

from adapass.budgeted import BudgetedPass
from adapass.cost.model import Cost
from adapass.errors import BudgetError, UsageError
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.pipeline import TooLossyError
from adapass.search.joint import JointProblem, Rates, plan_of
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.risk import discordance
from adapass.search.statics import StaticOption
from adapass.search.tasks import CHECKED_FEEDS
from adapass.search.trials import Candidate, Trials

SAVINGS: Final = (0.2, 0.35, 0.47, 0.57)
"""Share of the clean model's latency that is cut by the end of each stage."""
TIMES: Final = (0.25, 0.25, 0.25, 0.25)
"""Share of the healing time that each stage takes. One that is not well then is healed on for as long as was
left, and is the last."""
SPENT: Final = 0.9
"""Share of the budget that certification may be expected to see used up by a healed model alone."""


class Healer(Protocol):
    """Trains models towards the original of a run."""

    def step(self, model: ir.Model, seconds: float) -> BudgetedPass:
        """The pass that does so for about so long."""
        ...

    def heal(self, model: ir.Model, step: BudgetedPass, note: str) -> ir.Model:
        """What ``step`` makes of ``model``, which is left as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Base:
    """A cut and healed model, and how it was made."""

    plan: Plan
    candidate: Candidate


def staged(
    trials: Trials, options: Sequence[StaticOption], healer: Healer, seconds: float, *, classes: bool
) -> Base | None:
    """The boldest stage that keeps the budget; ``None`` where the first one does not."""
    clean = trials.clean()
    baseline, best = clean.seconds.seconds, None
    model, plan, taken = clean.model, Plan(), list[StaticOption]()
    for number, (share, time) in enumerate(zip(SAVINGS, TIMES, strict=True)):
        more = _more(options, taken, share * baseline, classes=classes)
        if more is None:
            trials.notes.append(f"cut and heal: nothing saves {100 * share:.0f} % of the latency")
            break
        if not more:
            continue
        cut = _cut(trials, model, more)
        if cut is None:
            break
        taken += more
        plan = Plan((*plan.parts, *plan_of(more, None).parts))
        stage = f"cut {100 * share:.0f} %, heal ({number + 1} of {len(SAVINGS)})"
        done = _healed(trials, healer, Base(plan, replace(clean, model=cut)), time * seconds, stage)
        is_well = _is_well(trials, done.candidate)
        if not is_well and (left := sum(TIMES[number + 1 :])) > 0.0:
            done = _healed(trials, healer, done, left * seconds, f"{stage}, on")
        if not _is_well(trials, done.candidate):
            trials.notes.append(
                f"cut and heal: {len(taken)} choices ({done.candidate.seconds.seconds / baseline:.2f}x of "
                f"clean) change {100 * done.candidate.discordance:.1f} % of the verdicts and would probably "
                f"be certified for {100 * done.candidate.risk:.2f} points only"
            )
            break
        model, plan, best = done.candidate.model, done.plan, done
        if not is_well:
            break
    return best


def _healed(trials: Trials, healer: Healer, base: Base, seconds: float, note: str) -> Base:
    model = base.candidate.model
    step = healer.step(model, seconds)
    healed = healer.heal(model, step, note)
    if digest(healed) == digest(model):  # it did not help: there is nothing to repeat
        return Base(base.plan, _judged(trials, base.plan, model))
    part = Part(step, step.propose(model, FactCache(model)).choices)
    plan = Plan((*base.plan.parts, part))
    return Base(plan, _judged(trials, plan, healed))


def _is_well(trials: Trials, candidate: Candidate) -> bool:
    return candidate.risk <= SPENT * trials.proving.max_drop


def _more(
    options: Sequence[StaticOption], taken: Sequence[StaticOption], saving: float, *, classes: bool
) -> tuple[StaticOption, ...] | None:
    """Choices that together with those taken save so much, at the least damage; ``None``: there are none."""
    missing = saving - sum(option.saving for option in taken)
    if missing <= 0.0:
        return ()
    by_damage = Rates(loss_per_damage=1.0)
    whole = JointProblem(tuple(options), (), by_damage, classes)
    slots = {option.slot for option in taken}
    free = tuple(o for o in options if o.slot not in slots and whole.allows([*taken, o]))
    try:
        return JointProblem(free, (), by_damage, classes).safest(missing).statics
    except BudgetError:
        return None


def _cut(trials: Trials, model: ir.Model, more: Sequence[StaticOption]) -> ir.Model | None:
    plan, fit = plan_of(more, None), trials.evaluations.fit
    check = [fit.feeds(i) for i in range(min(CHECKED_FEEDS, len(fit)))]
    try:
        return apply_plan(model, plan, fit=fit, check=check)
    except (TooLossyError, UsageError) as error:
        trials.notes.append(f"cut and heal: {plan} was dropped: {error}")
        return None


def _judged(trials: Trials, plan: Plan, model: ir.Model) -> Candidate:
    losses = trials.judge.losses(trials.evaluations.outputs(model))
    seconds: Cost = trials.watch.seconds(model, trials.build)
    changed, risk = discordance(losses), trials.risk(losses)
    candidate = Candidate(plan, model, seconds, float(np.mean(losses)), (), changed, risk)
    share = seconds.seconds / trials.found[0].seconds.seconds
    trials.progress.best(f"{plan}: {share:.2f}x of clean, search loss {100 * candidate.loss:+.2f} points")
    return candidate
