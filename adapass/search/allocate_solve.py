"""The least cost over a 0/1 program under bounds that must hold exactly, by HiGHS.

HiGHS works with absolute tolerances (1e-6 on a row, 1e-6 on the objective), and seconds are 1e-5. Hence every
row is first scaled by a power of two, which rounds nothing, until its largest coefficient is about 1e3 (1e4
in the objective), and every answer is recomputed exactly afterwards. An answer that is over a bound after all
is cut off by itself, which removes no other one; when that goes on too long the bounds given to the solver
are tightened instead, and the gap then tells what may have been lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from adapass.errors import BudgetError
from adapass.search.allocate_highs import UNDECIDED, Answer, Bools, Effort, Scaled, by_core, in_full
from adapass.search.allocate_program import Floats, Program

ROW_EXPONENT = 10
COST_EXPONENT = 14
"""The largest coefficient is scaled to below two to this power, and at least half of it."""
TOLERANCE = 1e-6
"""HiGHS's own, and the first tightening; each next one is four times as far."""
IN_FULL_UP_TO = 1_000
"""Variables; larger programs are solved by core."""
TOO_SHORT = "the allocator's limit was reached before any allocation was found; allow more time"
PROVEN = 1e-9
"""A smaller gap, relative to the largest number in sight, is rounding of the solver and counts as none."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """``coefficients · v <= upper``, exactly."""

    coefficients: Floats
    upper: float

    def excess(self, active: Bools) -> float:
        """How far ``active`` is over the bound; at most zero when it is kept."""
        return total(self.coefficients, active) - self.upper


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    chosen: Bools
    """By option."""
    cost: float
    gap: float
    """How much lower a cost the solver could not rule out, relative to the cost; 0.0 when proven."""


def total(coefficients: Floats, active: Bools) -> float:
    """The sum over what is active, rounded once."""
    return math.fsum(coefficients[active])


def least(program: Program, cost: Floats, bounds: Sequence[Bound], effort: Effort) -> Solution | None:
    """The cheapest choice of options, or None when none keeps the bounds."""
    binding = _binding(bounds)
    if binding is None:
        return None
    if not program.variables:
        return Solution(np.zeros(0, np.bool_), 0.0, 0.0)
    return _Search(program, cost, binding, effort).run()


def with_weakest_gap(solution: Solution, program: Program, cost: Floats) -> Solution:
    """The same choice under another ``cost``, of which nothing is proven."""
    reached = total(cost, program.active(solution.chosen))
    return Solution(solution.chosen, reached, _gap(reached, math.fsum(np.minimum(cost, 0.0)), cost))


def _gap(cost: float, lower: float, costs: Floats) -> float:
    largest = max(abs(cost), abs(lower), float(np.abs(costs).max(initial=0.0)))
    if cost - lower <= PROVEN * largest:
        return 0.0
    return (cost - lower) / max(abs(cost), abs(lower))


def _binding(bounds: Sequence[Bound]) -> list[Bound] | None:
    """The bounds some choice could break; None when every choice breaks one of them."""
    binding: list[Bound] = []
    for bound in bounds:
        if math.fsum(np.minimum(bound.coefficients, 0.0)) > bound.upper:
            return None
        if math.fsum(np.maximum(bound.coefficients, 0.0)) > bound.upper:
            binding.append(bound)
    return binding


def _exponent(coefficients: Floats) -> int:
    """The power of two above the largest coefficient."""
    return int(np.frexp(np.abs(coefficients).max(initial=0.0))[1])


class _Search:
    """Solve, check exactly, cut off or tighten, and solve again."""

    def __init__(self, program: Program, cost: Floats, bounds: Sequence[Bound], effort: Effort) -> None:
        self._program = program
        self._cost = cost
        self._bounds = bounds
        self._effort = effort
        self._cuts: list[tuple[Floats, float]] = []

    def run(self) -> Solution | None:
        lower = -math.inf
        for number in range(self._effort.cuts + self._effort.tightenings):
            tightening = number - self._effort.cuts
            answer = self._solve(0.0 if tightening < 0 else TOLERANCE * 4**tightening)
            if answer is UNDECIDED:
                raise BudgetError(TOO_SHORT)
            if answer.chosen is None:
                return None
            if tightening < 0:
                lower = max(lower, answer.lower)
            if self._keeps(answer.chosen):
                return self._solution(answer.chosen, lower)
            self._cut_off(answer.chosen)
        return None

    def _solve(self, margin: float) -> Answer:
        """HiGHS on the scaled program, with ``margin`` taken off the scaled bounds."""
        rows, upper = [self._program.matrix], [self._program.upper]
        for bound in self._bounds:
            shift = ROW_EXPONENT - _exponent(bound.coefficients)
            rows.append(sparse.csr_array(np.ldexp(bound.coefficients, shift)[np.newaxis]))
            upper.append(np.array([math.ldexp(bound.upper, shift) - margin]))
        for row, limit in self._cuts:
            rows.append(sparse.csr_array(row[np.newaxis]))
            upper.append(np.array([limit]))
        shift = COST_EXPONENT - _exponent(self._cost)
        cost, matrix = np.ldexp(self._cost, shift), sparse.csr_array(sparse.vstack(rows))
        scaled = Scaled(cost, matrix, np.concatenate(upper), len(self._program.options))
        find = in_full if self._program.variables <= IN_FULL_UP_TO else by_core
        answer = find(scaled, self._effort)
        return (
            replace(answer, lower=math.ldexp(answer.lower, -shift)) if answer.chosen is not None else answer
        )

    def _keeps(self, chosen: Bools) -> bool:
        active = self._program.active(chosen)
        return all(bound.excess(active) <= 0 for bound in self._bounds)

    def _cut_off(self, chosen: Bools) -> None:
        """At least one option must differ from ``chosen``."""
        row = np.zeros(self._program.variables)
        row[: chosen.size] = np.where(chosen, 1.0, -1.0)
        self._cuts.append((row, float(np.count_nonzero(chosen)) - 1.0))

    def _solution(self, chosen: Bools, lower: float) -> Solution:
        cost = total(self._cost, self._program.active(chosen))
        return Solution(chosen, cost, _gap(cost, lower, self._cost))
