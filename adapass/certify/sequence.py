"""Choose among candidates without losing the guarantee: learn-then-test with a fixed sequence.

(Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then test", 2021.) The candidates come in an order
that was fixed without the certify data, safest first. Each is tested at the full error 1 - confidence,
and testing stops at the first that fails.

Why the choice costs nothing: call the first candidate of the list whose true drop is over the budget
the trap. A wrong candidate can only be certified if the trap passes, because everything before it is
truly within the budget and everything behind it is tested only once it has passed. The trap is one
fixed candidate, independent of the certify data, and passes with probability at most 1 - confidence. So all
certified candidates together are right with probability ``confidence``, and any of them may be picked for
any reason, speed included. What breaks it: reordering, adding candidates after a look at the
results, or a second attempt on the same data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapass.certify.bounds import check_budget, p_value
from adapass.certify.losses import Losses
from adapass.errors import UsageError


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which candidates are certified: the first ``passed`` of the sequence."""

    passed: int
    p_values: tuple[float, ...]
    """One for every candidate that was tested, the failing one included."""

    @property
    def index(self) -> int | None:
        """The most aggressive candidate that is certified; ``None`` for none."""
        return self.passed - 1 if self.passed else None


def certify(candidates: Iterable[Losses], max_drop: float, confidence: float = 0.95) -> Verdict:
    """Test candidates from safest to most aggressive, stop at the first that fails.

    ``candidates`` may be a generator: what comes after the first failure is never computed.

    Raises:
        UsageError: a budget out of range, or candidates of different samples or metrics.

    """
    check_budget(max_drop, confidence)
    p_values: list[float] = []
    first: Losses | None = None
    for candidate in candidates:
        first = first or candidate
        if (len(candidate), candidate.metric) != (len(first), first.metric):
            raise UsageError(
                f"candidate {len(p_values)} has {len(candidate)} samples of metric '{candidate.metric}'; "
                f"{len(first)} of '{first.metric}' expected: all candidates are tested on the same data"
            )
        p_values.append(p_value(candidate, max_drop, confidence))
        if not p_values[-1] <= 1 - confidence:
            return Verdict(len(p_values) - 1, tuple(p_values))
    return Verdict(len(p_values), tuple(p_values))
