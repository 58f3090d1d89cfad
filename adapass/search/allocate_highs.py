"""HiGHS on one 0/1 program: in full, or around the optimum of its relaxation.

The relaxation (options may be chosen by halves) is solved in a fraction of the time and is nearly integral.
Its reduced costs tell what any deviation costs at least. So all variables whose reduced cost is above a
margin stay as the relaxation has them, and the rest, the core, is solved in integers. A solution that
deviates elsewhere costs more than the relaxation plus the margin, which makes the smaller of that and the
core's own bound a bound for the whole; the core grows until the gap is small enough. (The core idea for
knapsack problems is Balas and Zemel's, 1980; for multiple-choice ones Pisinger's, 1995.)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse

from adapass.search.allocate_program import Floats
from adapass.search.allocate_quiet import without_stray_lines

Bools = npt.NDArray[np.bool_]

# The stubs know neither sparse rows nor time limits.
_scipy: Any = optimize

FIRST_CORE = 500
CORE_GROWTH = 8
"""Variables in the first core besides those that cost nothing to change, and how fast the next ones grow."""
NO_COST = 1e-7
"""HiGHS's tolerance on reduced costs."""


@dataclass(frozen=True, slots=True)
class Effort:
    """When to stop. With a deadline, what is found depends on the clock."""

    relative_gap: float
    nodes: int
    """Of the search tree. Unlike a time limit, it stops at the same place every time."""
    cuts: int
    """Answers over a bound by rounding that are cut off one by one, before the bounds are tightened."""
    tightenings: int
    deadline: float | None = None
    """In seconds of ``time.monotonic``."""

    @property
    def is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def options(self) -> dict[str, float]:
        if self.deadline is None:
            return {}
        return {"time_limit": max(self.deadline - time.monotonic(), 0.0)}


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Least ``cost · v`` with ``rows v <= upper``; the first ``options`` of v are binary, the others not."""

    cost: Floats
    rows: sparse.csr_array
    upper: Floats
    options: int


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Nothing chosen: nothing keeps the rows (``INFEASIBLE``), or it is not known (``UNDECIDED``)."""

    chosen: Bools | None
    lower: float
    cost: float = math.inf


UNDECIDED = Answer(None, -math.inf)
INFEASIBLE = Answer(None, math.inf)


def in_full(program: Scaled, effort: Effort, low: Floats | float = 0.0, high: Floats | float = 1.0) -> Answer:
    """The best choice with every variable within ``low`` and ``high``."""
    with without_stray_lines():
        result = _scipy.milp(
            program.cost,
            integrality=np.arange(program.cost.size) < program.options,
            bounds=optimize.Bounds(low, high),
            constraints=optimize.LinearConstraint(program.rows, -np.inf, program.upper),
            options={"mip_rel_gap": effort.relative_gap, "node_limit": effort.nodes, **effort.options()},
        )
    if result.x is not None:
        lower = -math.inf if result.mip_dual_bound is None else float(result.mip_dual_bound)
        return Answer(np.asarray(result.x[: program.options] > 0.5), lower, float(result.fun))
    if "nfeasible" in result.message:
        return INFEASIBLE
    if "imit" in result.message:
        return UNDECIDED
    raise RuntimeError(f"HiGHS gave up on {program.cost.size} variables: {result.message}")


def by_core(program: Scaled, effort: Effort) -> Answer:
    """The best choice as far as ``effort`` goes, found in a part of the program where that is enough."""
    with without_stray_lines():
        relaxed = _scipy.linprog(
            program.cost,
            program.rows,
            program.upper,
            bounds=(0, 1),
            method="highs-ds",
            options=effort.options(),
        )
    if relaxed.status != 0:
        return in_full(program, effort)
    reduced: Floats = relaxed.lower.marginals + relaxed.upper.marginals
    margins = np.sort(np.abs(reduced[np.abs(reduced) > NO_COST]))
    best = UNDECIDED
    count = FIRST_CORE
    while count < margins.size and not effort.is_over:
        margin = float(margins[count])
        low, high = (reduced < -margin).astype(np.float64), (reduced <= margin).astype(np.float64)
        found = in_full(program, effort, low, high)
        outside = float(relaxed.fun) + margin
        best = _better(best, found, outside)
        stopped_inside = found.chosen is not None and found.lower < outside
        if stopped_inside or best.cost - best.lower <= effort.relative_gap * abs(best.cost):
            return best
        count *= CORE_GROWTH
    whole = in_full(program, effort)
    return whole if whole is INFEASIBLE else _better(best, whole, math.inf)


def _better(best: Answer, found: Answer, outside: float) -> Answer:
    """The cheaper of two, with the better bound; no choice beyond ``found``'s core is below ``outside``."""
    lower = max(best.lower, min(found.lower, outside))
    cheaper = found if found.cost < best.cost else best
    return Answer(cheaper.chosen, lower, cheaper.cost)
