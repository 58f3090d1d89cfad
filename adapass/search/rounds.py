"""How often a search plans and measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rounds:
    """The effort of ``Search``."""

    repairs: int
    """Attempts to bring static choices within the budget."""
    shares: tuple[float, ...]
    """Shares of the allowed loss at which the joint problem is solved first."""
    corrections: int
    """Rounds of planning again with what was measured."""
    trials: int = 0
    """Plans sampled around the front by evolution, after everything else."""
