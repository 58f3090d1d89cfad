"""Shares of all layers by measured rounds: layers together do not damage the sum of what each does alone.

    plan        an option of each layer; the best, as a whole, of those given to begin with
    a round     measure the plan with one layer cut a little further, layer by layer
                re-plan near it: damage(plan') = damage(plan) + sum of the changes, each layer's curve
                stretched to what was measured beside the plan
                measure that as a whole; keep it if it is better, else stay nearer

Single damages, which the dynamic programme (``allocate_layers``) adds up, are taken with everything else
whole. Where much goes everywhere, a layer's errors meet others': they grow on the way, or drown. The
changes around a plan know of both (a linearisation around the plan, as in sequential programming with a
trust region), and starting from the usual rules' plans, the result is never worse than those on the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adapass.errors import BudgetError, UsageError
from adapass.search.allocate_layers import LayerOption, least_damage

Plan = Mapping[str, int]
"""For each layer the place of its option."""
Change = tuple[str, int]
"""A layer, and the place of another option."""
Layers = Mapping[str, Sequence[LayerOption]]
Whole = Callable[[Plan], float]
"""Measured damage of a plan."""
Beside = Callable[[Plan, Sequence[Change]], Mapping[Change, float]]
"""By how much each of these changes alone changes the damage of the plan, on some samples or all."""

REACH = 4
"""Options to either side that the first round may move a layer by."""


@dataclass(frozen=True, slots=True)
class Refined:
    """What rounds came to."""

    plan: Plan
    damage: float
    history: tuple[float, ...]
    """The damage of the best start, and after each round."""


def measured_rounds(
    layers: Layers,
    removed: int,
    starts: Sequence[Plan],
    *,
    whole: Whole,
    beside: Beside,
    rounds: int = 4,
    reach: int = REACH,
) -> Refined:
    """The least measured damage found with ``removed`` weights gone at least.

    Options of each layer rise in what they remove. A start that removes too little is filled up.

    Raises:
        UsageError: there is no start, or one does not name an option of each layer.
        BudgetError: not so many weights can go.

    """
    _check(layers, starts)
    known: dict[tuple[int, ...], float] = {}

    def damage(plan: Plan) -> float:
        key = tuple(plan[name] for name in layers)
        if key not in known:
            known[key] = whole(plan)
        return known[key]

    best = min((filled(layers, start, removed) for start in starts), key=damage)
    history = [damage(best)]
    for _ in range(rounds):
        before = best
        curves = _local(layers, best, beside(best, _ahead(layers, best, reach)), reach)
        while reach and best is before:
            near = {name: (p - reach, p + reach) for name, p in best.items()}
            best = min((best, _replanned(layers, curves, near, removed)), key=damage)
            reach = reach if best is not before else reach // 2
        history.append(damage(best))
        if not reach:
            break
    return Refined(best, damage(best), tuple(history))


def filled(layers: Layers, plan: Plan, removed: int) -> Plan:
    """The plan with every layer moved on, in step, until ``removed`` weights are gone."""
    now = dict(plan)
    while sum(layers[name][place].removed for name, place in now.items()) < removed:
        further = {name: min(place + 1, len(layers[name]) - 1) for name, place in now.items()}
        if further == now:
            raise BudgetError(
                f"{removed} weights are to go, and layers cannot give as many; offer larger shares"
            )
        for name in layers:
            now[name] = further[name]
            if sum(layers[each][place].removed for each, place in now.items()) >= removed:
                break
    return now


def _ahead(layers: Layers, plan: Plan, reach: int) -> list[Change]:
    """Every layer cut further; one that cannot be, less far."""
    found: list[Change] = []
    for name, place in plan.items():
        end = min(place + reach, len(layers[name]) - 1)
        end = end if end > place else max(place - reach, 0)
        if end != place:
            found.append((name, end))
    return found


def _local(
    layers: Layers, plan: Plan, changes: Mapping[Change, float], reach: int
) -> dict[str, dict[int, float]]:
    """What each option near the plan changes: each layer's own curve, stretched to what was measured."""
    found: dict[str, dict[int, float]] = {name: {place: 0.0} for name, place in plan.items()}
    for (name, end), measured in changes.items():
        place, options = plan[name], layers[name]
        change = max(measured, 0.0) if end > place else min(measured, 0.0)
        for near in range(max(place - reach, 0), min(place + reach, len(options) - 1) + 1):
            found[name][near] = change * _share(options, place, near, end)
    return found


def _share(options: Sequence[LayerOption], place: int, near: int, end: int) -> float:
    """Change of damage from ``place`` to ``near`` over that to ``end``."""
    whole = options[end].damage - options[place].damage
    if abs(whole) > 0.0:
        return (options[near].damage - options[place].damage) / whole
    return (near - place) / (end - place)


def _replanned(
    layers: Layers,
    curves: Mapping[str, Mapping[int, float]],
    near: Mapping[str, tuple[int, int]],
    removed: int,
) -> Plan:
    offered: dict[str, list[LayerOption]] = {}
    places: dict[str, list[int]] = {}
    for name, curve in curves.items():
        low, high = near[name]
        places[name] = sorted(place for place in curve if low <= place <= high)
        offered[name] = [LayerOption(layers[name][p].removed, curve[p]) for p in places[name]]
    chosen = least_damage(offered, removed)
    return {name: places[name][offered[name].index(option)] for name, option in chosen.items()}


def _check(layers: Layers, starts: Sequence[Plan]) -> None:
    if not starts:
        raise UsageError("no plan to start from was given; give at least one")
    for plan in starts:
        for name, options in layers.items():
            if not 0 <= plan.get(name, -1) < len(options):
                raise UsageError(
                    f"a plan to start from has option {plan.get(name)} for layer '{name}', which has "
                    f"{len(options)}; name one of them"
                )
