"""The smallest budget at which a tested candidate still passes, and which candidates pass at a given one.

The test is turned round on a grid of budgets between 0 and the one that was tested. Its p-value need
not fall along the grid (a betting player who is ahead bets less, the exact paired test is evaluated to a
tolerance), so the first budget that passes says nothing. ``reach`` goes down from the tested budget
and stops before the first that fails: every grid budget from ``certified_drop`` up to the tested one passes.

Why any budget b may be asked for afterwards, if it was settled for reasons other than these results:
round b down to the grid, g <= b. ``certified_drop <= b`` means ``certified_drop <= g``, so the
candidate passed at g. A candidate whose true drop is above b is also above g, and passes there with
probability at most 1 - confidence. The walk at b (``within``) is the fixed sequence of ``sequence``
with the same order and budget g, so all it keeps are within b together, with that confidence.

What this does not allow: choosing b after a look at these numbers ("the smallest that still gives 2 ms").
Each budget has a trap of its own (see ``sequence``), and a search over budgets may step on any of them.
Budgets above the tested one cannot let more candidates in: the walk ended at its first failure, and
nobody has looked at what a more generous test says of the rest. What passed stays certified at the tested
budget, which is the stronger statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from adapass.certify.bounds import check_budget, p_value
from adapass.certify.losses import Losses

GRID_STEPS = 100
"""Settled once and for all: a grid that follows the results would be a choice after a look."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far below the tested budget a candidate passes."""

    certified_drop: float
    """Every budget of the grid from here to the tested one passes."""
    p_value: float
    """The largest p-value on the way, so a valid one for each budget in between."""


def budget_grid(max_drop: float) -> tuple[float, ...]:
    """Budgets from 0 to ``max_drop``, which is the last one exactly."""
    below = (round(max_drop * step / GRID_STEPS, 12) for step in range(GRID_STEPS))
    return (*dict.fromkeys(budget for budget in below if budget < max_drop), max_drop)


def reach(losses: Losses, max_drop: float, confidence: float = 0.95) -> Reach | None:
    """``None`` where not even ``max_drop`` passes.

    Raises:
        UsageError: a budget or a confidence out of range.

    """
    check_budget(max_drop, confidence)
    tested = ((budget, p_value(losses, budget, confidence)) for budget in reversed(budget_grid(max_drop)))
    passed = list(takewhile(lambda each: each[1] <= 1 - confidence, tested))
    if not passed:
        return None
    return Reach(certified_drop=passed[-1][0], p_value=max(p for _, p in passed))


def walked(drops: Sequence[float]) -> tuple[float, ...]:
    """For each candidate the smallest budget at which the walk gets there: the largest drop up to it."""
    return tuple(max(drops[: position + 1]) for position in range(len(drops)))


def within(drops: Sequence[float], max_drop: float) -> int:
    """How many candidates the walk at ``max_drop`` certifies; it stops at the first that fails."""
    return sum(1 for _ in takewhile(lambda drop: drop <= max_drop, drops))
