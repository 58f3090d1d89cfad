"""Settings of all sites under limits, by measured rounds: single damages are where it begins, not the end.

    plan        the best, as a whole, of those given to begin with
    a round     measure the plan with one site exchanged for settings next to its own, site by site
                re-plan from what these change, by the allocator, within the limits
                measure that as a whole; keep it if it is better, else let fewer sites move

What single choices damage is noisy, and what many of them do together is not its sum: errors meet others,
grow on the way, or drown. Both are seen around a plan. Since the rounds begin with the best of several plans,
the one a user would try by hand among them, what they end with is never worse on the samples it is judged on.
``allocate_rounds`` does the like for layers that lose ever more of one kind; here settings are of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate import minimize_damage
from adapass.search.allocate_problem import Option, Problem

Keys = frozenset[str]
"""A plan: keys of options, at most one of a slot."""
Change = tuple[str, str | None]
"""A slot, and the key it gets instead of what it has; ``None``: it is left as it was."""
Whole = Callable[[Keys], float]
"""Measured damage of a plan."""
Beside = Callable[[Keys, Sequence[Change]], Sequence[float]]
"""By how much each of these changes alone changes the damage of the plan, on some samples or all."""

BELIEVED = (0.5, 1.0)
"""Of what a change does beside the plan over what it does alone, one after the other: on few samples about
half of it is luck; all of it is believed where nothing better is found so."""
REACH = 1
_CHANGED, _SETTLED = "changed slots", "settled slots"


@dataclass(frozen=True, slots=True)
class Settled:
    """What rounds came to."""

    chosen: Keys
    damage: float
    history: tuple[float, ...]
    """The damage of the best start, and after each round."""


def least_measured(
    options: Sequence[Option],
    limits: Mapping[str, float],
    starts: Sequence[Collection[str]],
    *,
    whole: Whole,
    beside: Beside,
    rounds: int = 3,
    reach: int = REACH,
) -> Settled:
    """The least measured damage found within ``limits`` on the use of each resource.

    Settings of a slot are next to each other in the order of what they use of the first limited resource.

    Raises:
        UsageError: there is no limit or no start, or a start has an unknown key or two of a slot.
        BudgetError: no start keeps the limits.

    """
    task = _Task(options, limits, reach)
    known: dict[Keys, float] = {}

    def damage(plan: Keys) -> float:
        if plan not in known:
            known[plan] = whole(plan)
        return known[plan]

    best = min(task.kept([frozenset(start) for start in starts]), key=damage)
    history = [damage(best)]
    for _ in range(rounds):
        changes = task.near(best)
        changed = dict(zip(changes, beside(best, changes), strict=True))
        better = _better(task, best, changed, damage)
        if better is None:
            break
        best = better
        history.append(damage(best))
    return Settled(best, damage(best), tuple(history))


def _better(
    task: _Task, best: Keys, changed: Mapping[Change, float], damage: Callable[[Keys], float]
) -> Keys | None:
    """A plan near ``best`` that is measured to be better, as far from it as may be; ``None``: none is."""
    for believed in BELIEVED:
        expected = task.expected(best, changed, believed)
        moves = len(task.slots)
        while moves:
            plan = task.replanned(best, expected, moves)
            if damage(plan) < damage(best):
                return plan
            moves = min(moves, len(task.moved(best, plan))) // 2
    return None


class _Task:
    """Options by slot, and the limits."""

    def __init__(self, options: Sequence[Option], limits: Mapping[str, float], reach: int) -> None:
        if not limits:
            raise UsageError("no resource is limited; without a limit nothing need be damaged")
        self._limits, self._reach = limits, reach
        self._options = {option.key: option for option in options}
        first = next(iter(limits))
        found: dict[str, list[Option]] = {}
        for option in options:
            found.setdefault(option.slot, []).append(option)
        self.slots: Mapping[str, list[str | None]] = {
            slot: _ordered(own, first) for slot, own in found.items()
        }

    def kept(self, starts: Sequence[Keys]) -> list[Keys]:
        if not starts:
            raise UsageError("no plan to start from was given; give at least one")
        problem = Problem(tuple(self._options.values()))
        for start in starts:
            if not problem.allows(start):
                raise UsageError(f"a plan to start from has two settings of a slot: {sorted(start)}")
        uses = [problem.totals(start).use for start in starts]
        kept = [
            start
            for start, use in zip(starts, uses, strict=True)
            if all(use.get(name, 0.0) <= limit for name, limit in self._limits.items())
        ]
        if not kept:
            raise BudgetError(
                f"no plan to start from keeps the limits {dict(self._limits)}; the nearest uses "
                f"{min(uses, key=lambda use: sum(use.values()))}; raise them or offer smaller settings"
            )
        return kept

    def near(self, plan: Keys) -> list[Change]:
        """Every setting next to the one a slot has."""
        found: list[Change] = []
        for slot, keys in self.slots.items():
            place = self._place(slot, plan)
            low, high = max(place - self._reach, 0), place + self._reach + 1
            found += [(slot, key) for key in keys[low:high] if key != keys[place]]
        return found

    def moved(self, one: Keys, other: Keys) -> list[str]:
        return [slot for slot in self.slots if self._place(slot, one) != self._place(slot, other)]

    def expected(self, plan: Keys, changed: Mapping[Change, float], believed: float) -> dict[Change, float]:
        """What changes alter, between what they do alone and what was measured beside the plan."""
        found: dict[Change, float] = {}
        for (slot, key), measured in changed.items():
            alone = self._alone(key) - self._alone(self.slots[slot][self._place(slot, plan)])
            found[slot, key] = alone + believed * (measured - alone)
        return found

    def replanned(self, plan: Keys, expected: Mapping[Change, float], moves: int) -> Keys:
        """The best by prediction that differs from ``plan`` at ``moves`` slots at most."""
        keys = {f"{slot}|{key}": key for slot, key in expected}
        options = [self._option(slot, key, damage, 1.0) for (slot, key), damage in expected.items()]
        for slot, own in self.slots.items():
            now = own[self._place(slot, plan)]
            keys[f"{slot}|{now}"] = now
            options.append(self._option(slot, now, 0.0, 0.0))
        limits = {**self._limits, _CHANGED: float(moves), _SETTLED: -float(len(self.slots))}
        taken = minimize_damage(Problem(tuple(options)), min_saving=float("-inf"), limits=limits).chosen
        return frozenset(found for each in taken if (found := keys[each]) is not None)

    def _alone(self, key: str | None) -> float:
        return 0.0 if key is None else self._options[key].damage

    def _option(self, slot: str, key: str | None, damage: float, changed: float) -> Option:
        """Leaving a slot as it was is a setting too: one of each slot has to be taken."""
        use = {} if key is None else dict(self._options[key].use)
        return Option(f"{slot}|{key}", slot, 0.0, damage, {**use, _CHANGED: changed, _SETTLED: -1.0})

    def _place(self, slot: str, plan: Keys) -> int:
        keys = self.slots[slot]
        return next((place for place, key in enumerate(keys) if key in plan), keys.index(None))


def _ordered(options: Sequence[Option], resource: str) -> list[str | None]:
    """Settings of a slot by what they use; leaving it as it was uses nothing."""
    ranked = sorted((option.use.get(resource, 0.0), option.key) for option in options)
    saving = [key for use, key in ranked if use < 0.0]
    return [*saving, None, *(key for use, key in ranked if use >= 0.0)]
