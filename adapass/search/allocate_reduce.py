"""Leave out options that no best allocation needs, before the solver sees them.

An option is dominated by another one of its slot, or by choosing nothing, when that one saves at least as
much, damages no more and uses no more of every limited resource. Exchanging it is always possible, and never
worse, as long as no pair mentions either of the two.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from adapass.search.allocate_problem import Option, Problem, needed


def useful_options(problem: Problem, limited: Collection[str]) -> tuple[Option, ...]:
    """What is left, sorted by slot and key: the same for every order the problem lists its options in."""
    tied = _tied(problem)
    ordered = sorted(problem.options, key=lambda option: (option.slot, option.key))
    resources = sorted(limited)
    kept: list[Option] = []
    for _, group in groupby(ordered, key=lambda option: option.slot):
        slot = list(group)
        front = _front([option for option in slot if option.key not in tied], resources)
        kept.extend(option for option in slot if option.key in tied or option.key in front)
    return tuple(kept)


def _tied(problem: Problem) -> set[str]:
    """Keys some pair mentions."""
    keys = {key for pair in problem.exclusions for key in pair}
    keys.update(key for rule in problem.implications for key in (rule[0], *needed(rule)))
    keys.update(key for pair in problem.interactions for key in (pair.first, pair.second))
    return keys


def _front(options: Sequence[Option], resources: Sequence[str]) -> set[str]:
    """Keys of the options that nothing dominates; the first of several equal ones."""
    costs = [(option.key, _costs(option, resources)) for option in options]
    kept: list[tuple[str, tuple[float, ...]]] = []
    # In this order nothing is dominated by what comes after it.
    for key, cost in sorted(costs, key=lambda pair: (pair[1], pair[0])):
        nothing = all(value >= 0 for value in cost)
        if not nothing and not any(_no_worse(other, cost) for _, other in kept):
            kept.append((key, cost))
    return {key for key, _ in kept}


def _costs(option: Option, resources: Sequence[str]) -> tuple[float, ...]:
    return (-option.saving, option.damage, *(option.use.get(name, 0.0) for name in resources))


def _no_worse(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True))
