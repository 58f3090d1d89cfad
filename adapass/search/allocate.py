"""The allocator: which settings of all families together, least damage for a saving or the reverse.

One integer program for everything (``allocate_program``), solved by HiGHS (``allocate_solve``). Bounds hold
exactly in what is returned. Up to ``IN_FULL_UP_TO`` variables the optimum is proven, unless the search tree
outgrows its limit, and among equal optima the other one of damage and saving decides; above that the solver
may stop a little short. ``Allocation.gap`` says how far in every case. Options are put in order of slot and
key first, and HiGHS is deterministic: the result depends on the problem and not on the order of its parts,
unless a time limit cuts the solver short.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate_highs import Effort
from adapass.search.allocate_problem import Interaction, Option, Problem
from adapass.search.allocate_program import Floats, Program, formulate
from adapass.search.allocate_reduce import useful_options
from adapass.search.allocate_solve import (
    IN_FULL_UP_TO,
    PROVEN,
    Bound,
    Solution,
    least,
    total,
    with_weakest_gap,
)

__all__ = [
    "Allocation",
    "InfeasibleError",
    "Interaction",
    "Option",
    "Problem",
    "front",
    "maximize_saving",
    "minimize_damage",
]

PROVEN_EFFORT = Effort(relative_gap=0.0, nodes=20_000, cuts=20, tightenings=12)
LARGE_EFFORT = Effort(relative_gap=1e-5, nodes=1_000, cuts=2, tightenings=12)
"""Predictions are good to a few percent; a gap of a thousandth of that is not worth minutes."""
TIE_EFFORT = Effort(relative_gap=0.0, nodes=200, cuts=1, tightenings=0)
"""To choose among equals. Where sums differ by rounding alone, as those of repeated blocks do, there is no
end to them; hence one answer."""


class InfeasibleError(BudgetError):
    """No allocation keeps the bounds; the message says how far one can get."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What to choose, and what that is predicted to do."""

    chosen: tuple[str, ...]
    """Keys, in the order of the problem."""
    saving: float
    damage: float
    use: Mapping[str, float]
    """Total change of every further resource the problem mentions."""
    gap: float
    """What may be missing to the best objective, relative to it; 0.0 when proven."""

    @property
    def proven(self) -> bool:
        return self.gap == 0.0


def minimize_damage(
    problem: Problem,
    *,
    min_saving: float,
    limits: Mapping[str, float] | None = None,
    time_limit_seconds: float | None = None,
) -> Allocation:
    """The least damage that saves at least ``min_saving`` and keeps within ``limits`` of each resource.

    Raises ``InfeasibleError`` with the largest reachable saving, or with the smallest use of each resource
    where the limits cannot be met.
    """
    _check(min_saving, "min_saving", harmless=-np.inf)
    task = _Task(problem, limits or {}, time_limit_seconds)
    program = task.program
    saving = program.saving()
    found = task.best(program.damage(), -saving, Bound(-saving, -min_saving))
    if found is not None:
        return task.allocation(found)
    reachable = task.best(-saving, program.damage())
    if reachable is None:
        raise task.too_tight()
    most = task.allocation(reachable)
    if most.saving >= min_saving:
        # The bound is closer to the best there is than the solver can tell; this one is known to keep it.
        return task.allocation(with_weakest_gap(reachable, program, program.damage()))
    within = " within the limits" if limits else ""
    raise InfeasibleError(
        f"no allocation saves {min_saving:.6g}: the largest reachable saving{within} is {most.saving:.6g}; "
        "ask for less or offer more options"
    )


def maximize_saving(
    problem: Problem,
    *,
    max_damage: float,
    limits: Mapping[str, float] | None = None,
    time_limit_seconds: float | None = None,
) -> Allocation:
    """The largest saving that damages at most ``max_damage`` and keeps within ``limits`` of each resource.

    Raises ``InfeasibleError`` with the smallest reachable damage, or with the smallest use of each resource
    where the limits cannot be met.
    """
    _check(max_damage, "max_damage", harmless=np.inf)
    task = _Task(problem, limits or {}, time_limit_seconds)
    program = task.program
    damage = program.damage()
    found = task.best(-program.saving(), damage, Bound(damage, max_damage))
    if found is not None:
        return task.allocation(found)
    reachable = task.best(damage, -program.saving())
    if reachable is None:
        raise task.too_tight()
    least_damage = task.allocation(reachable)
    if least_damage.damage <= max_damage:
        return task.allocation(with_weakest_gap(reachable, program, -program.saving()))
    within = " within the limits" if limits else ""
    raise InfeasibleError(
        f"no allocation damages as little as {max_damage:.6g}: the smallest reachable damage{within} is "
        f"{least_damage.damage:.6g}; allow more"
    )


def front(
    problem: Problem, *, steps: int, limits: Mapping[str, float] | None = None
) -> tuple[Allocation, ...]:
    """The predicted Pareto front, by rising saving and damage, seen through ``steps`` evenly spaced savings.

    From saving nothing to the largest saving, both included. The first is the empty allocation unless some
    choice is better for nothing; the last may save less than the largest by what counts as rounding
    (``PROVEN``). Allocations that several savings share come once.
    """
    if steps < 2:
        raise UsageError(f"a front has at least its two ends, but steps is {steps}")
    most = maximize_saving(problem, max_damage=np.inf, limits=limits)
    highest = most.saving - PROVEN * abs(most.saving)
    found: list[Allocation] = []
    for target in np.linspace(min(0.0, highest), highest, steps).tolist():
        # The one before saves enough for this target as well, so it is still the least damaging.
        if not found or found[-1].saving < target:
            found.append(minimize_damage(problem, min_saving=target, limits=limits))
    return _without_dominated(found)


def _without_dominated(allocations: Sequence[Allocation]) -> tuple[Allocation, ...]:
    kept: list[Allocation] = []
    for allocation in sorted(allocations, key=lambda a: (a.damage, -a.saving)):
        if not kept or allocation.saving > kept[-1].saving:
            kept.append(allocation)
    return tuple(kept)


def _check(bound: float, name: str, *, harmless: float) -> None:
    if not np.isfinite(bound) and bound != harmless:
        raise UsageError(f"{name} is {bound}; it must be a number, or {harmless} for no bound")


class _Task:
    """One problem, reduced and formulated for the resources that are limited."""

    def __init__(
        self, problem: Problem, limits: Mapping[str, float], time_limit_seconds: float | None
    ) -> None:
        for name, limit in limits.items():
            _check(limit, f"the limit of {name}", harmless=np.inf)
        if time_limit_seconds is not None and not time_limit_seconds > 0:
            raise UsageError(f"time_limit_seconds is {time_limit_seconds}; it must be positive")
        self._problem = problem
        self._limits = dict(sorted(limits.items()))
        self.program: Program = formulate(problem, useful_options(problem, self._limits))
        self._deadline = None if time_limit_seconds is None else time.monotonic() + time_limit_seconds
        self._is_small = self.program.variables <= IN_FULL_UP_TO
        effort = PROVEN_EFFORT if self._is_small else LARGE_EFFORT
        self._effort = replace(effort, deadline=self._deadline)

    def best(self, cost: Floats, second: Floats, *bounds: Bound) -> Solution | None:
        """The least ``cost`` and, among the proven equals of a small problem, the least ``second`` cost."""
        limited = [Bound(self.program.use(name), limit) for name, limit in self._limits.items()]
        kept = [*bounds, *limited]
        found = least(self.program, cost, kept, self._effort)
        if found is None or found.gap or not self._is_small:
            return found
        try:
            bound = Bound(cost, found.cost)
            other = least(self.program, second, [*kept, bound], replace(TIE_EFFORT, deadline=self._deadline))
        except BudgetError:
            return found
        if other is None or other.cost > total(second, self.program.active(found.chosen)):
            return found
        return Solution(other.chosen, found.cost, 0.0)

    def allocation(self, solution: Solution) -> Allocation:
        options = zip(self.program.options, solution.chosen, strict=True)
        taken = {option.key for option, chosen in options if chosen}
        totals = self._problem.totals(taken)
        chosen = tuple(option.key for option in self._problem.options if option.key in taken)
        return Allocation(chosen, totals.saving, totals.damage, totals.use, solution.gap)

    def too_tight(self) -> InfeasibleError:
        """Which use each limit allows, and the smallest there is of it."""
        told: list[str] = []
        for name, limit in self._limits.items():
            use = self.program.use(name)
            smallest = least(self.program, use, (), self._effort)
            reach = 0.0 if smallest is None else smallest.cost
            told.append(f"{name} at most {limit:.6g} (smallest reachable alone {reach:.6g})")
        return InfeasibleError(f"no allocation keeps the limits together: {', '.join(told)}; raise them")
