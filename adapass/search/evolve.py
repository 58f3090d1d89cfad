"""Search mode ``extensive``: evolution of whole recipes, started from the front that the allocator found.

A recipe is a knob family (or none) and, for each group of static options of similar worth, whether it is
made. NSGA-II (Deb et al. 2002, in optuna) breeds recipes for low latency and low loss; every recipe is
applied, fitted and measured like any other plan (as in BigNAS, Yu et al. 2020, the front seeds the search;
unlike there, what is bred is a rewrite of one trained model).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from adapass.budgeted import BudgetedPass
from adapass.errors import UsageError
from adapass.search.joint import JointProblem
from adapass.search.plan import tunes
from adapass.search.statics import StaticOption
from adapass.search.trials import Candidate, Trials

if TYPE_CHECKING:
    import optuna

GROUPS: Final = 10
POPULATION: Final = 8
NONE: Final = "none"


def require_optuna() -> None:
    """Raises ``UsageError`` where the library that breeds recipes is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("mode 'extensive' needs optuna: pip install 'adapass[extensive]'")


def evolve(trials: Trials, problem: JointProblem, *, count: int, seed: int) -> None:
    """Try ``count`` recipes; what was found is in ``trials``.

    Raises:
        TimeUpError: the deadline passed.

    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    groups = _by_worth(problem.possible())
    families = tuple(dict.fromkeys(schedule.step for schedule in problem.schedules))
    for candidate in trials.found:
        study.enqueue_trial(_genome(candidate, groups))
    for number in range(count + len(trials.found)):
        trials.progress.step(number, count + len(trials.found), "breed recipes")
        _breed(study, trials, problem.possible(), groups, families)


def _breed(
    study: optuna.Study,
    trials: Trials,
    problem: JointProblem,
    groups: Sequence[Sequence[StaticOption]],
    families: Sequence[BudgetedPass],
) -> None:
    import optuna

    asked = study.ask()
    knobs = asked.suggest_categorical("knobs", [NONE, *(str(step) for step in families)])
    taken = [g for i, g in enumerate(groups) if asked.suggest_categorical(f"group {i}", [False, True])]
    step = next((step for step in families if str(step) == knobs), None)
    statics = [option for group in taken for option in group]
    candidate = trials.try_plan(statics, step) if problem.allows(statics) else None
    if candidate is None:
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(asked, [candidate.seconds.seconds, candidate.loss])


def _by_worth(problem: JointProblem) -> list[list[StaticOption]]:
    """Options in at most ``GROUPS`` groups, those that save most for their damage first."""

    def worth(option: StaticOption) -> tuple[float, str]:
        damage = option.damage.additive(classes=problem.classes)
        return -option.saving / max(damage, 1e-12), option.key

    ordered = sorted(problem.statics, key=worth)
    count = min(GROUPS, len(ordered))
    bounds = [round(i * len(ordered) / count) for i in range(count + 1)] if count else [0]
    return [ordered[low:high] for low, high in pairwise(bounds)]


def _genome(candidate: Candidate, groups: Sequence[Sequence[StaticOption]]) -> dict[str, str | bool]:
    """The recipe nearest to a plan: a group is made where most of it was."""
    parts = candidate.plan.parts
    knobs = next((str(part.step) for part in parts if tunes(part.step)), NONE)
    made = {choice.key for part in parts for choice in part.choices}
    shares = [sum(o.choice.key in made for o in group) / len(group) for group in groups]
    return {"knobs": knobs, **{f"group {i}": share > 0.5 for i, share in enumerate(shares)}}
