"""The least damage within a size: settings of one family, measured together.

The joint problem looks for the fastest plan that is small enough; whether that is accurate enough it knows
from single damages alone. Beside it goes the safest plan of the size, for families that can measure whole
plans (``BudgetedPass.together``): from the allocator's and from one setting everywhere, by measured rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from adapass.budgeted import Choice, Damage, Together
from adapass.data import Dataset
from adapass.errors import BudgetError
from adapass.facts import FactCache
from adapass.search.allocate import minimize_damage
from adapass.search.allocate_measured import Change, Keys, Settled, least_measured
from adapass.search.allocate_problem import Option, Problem
from adapass.search.judge import spread_indices
from adapass.search.statics import StaticOption

BYTES = "bytes"
ROUNDS = 3
SAMPLES = 256
"""Fit samples that plans are measured on, as far as there are so many."""


def sized_plans(
    clean: ir.Model,
    options: Sequence[StaticOption],
    max_bytes: float,
    fit: Dataset,
    *,
    classes: bool,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[StaticOption, ...]]:
    """For each family that can be measured so, its plan of the least damage that keeps ``max_bytes``.

    ``max_bytes`` is the change of stored bytes allowed; there is no plan where nothing has to become smaller,
    and none of families that cannot become as small. ``check`` is called between measurements, and may raise.
    """
    if max_bytes >= 0.0:
        return
    samples = fit.subset(list(spread_indices(len(fit), SAMPLES)))
    for step in dict.fromkeys(option.step for option in options):
        own = {option.choice.key: option for option in options if option.step == step}
        choices = tuple(option.choice for option in own.values())
        together = step.together(clean, FactCache(clean), choices, samples)
        if together is None:
            continue
        sized = [
            Option(
                key,
                option.choice.site,
                0.0,
                option.damage.additive(classes=classes),
                {BYTES: -float(option.saved_bytes)},
            )
            for key, option in own.items()
        ]
        try:
            found = settled(sized, choices, max_bytes, together, classes=classes, check=check)
        except BudgetError:
            continue
        yield tuple(option for key, option in own.items() if key in found.chosen)


def settled(
    options: Sequence[Option],
    choices: Sequence[Choice],
    max_bytes: float,
    together: Together,
    *,
    classes: bool,
    starts: Sequence[Keys] = (),
    rounds: int = ROUNDS,
    check: Callable[[], None] = lambda: None,
) -> Settled:
    """Measured rounds over ``choices``, whose keys those of ``options`` are, within ``max_bytes``.

    They begin with the allocator's plan, with every setting that is small enough everywhere, and ``starts``.

    Raises:
        BudgetError: they cannot become as small.

    """
    limits = {BYTES: max_bytes}
    by_key = {choice.key: choice for choice in choices}
    first = minimize_damage(Problem(tuple(options)), min_saving=float("-inf"), limits=limits)

    def taken(plan: Keys) -> list[Choice]:
        return [choice for key, choice in by_key.items() if key in plan]

    def counted(damage: Damage) -> float:
        check()
        return damage.additive(classes=classes)

    def beside(plan: Keys, changes: Sequence[Change]) -> list[float]:
        chosen = taken(plan)
        now = {choice.site: choice for choice in chosen}
        site = next(iter(changes))[0]
        exchanges = [(slot, None if key is None else by_key[key]) for slot, key in changes]
        base, *found = together.beside(chosen, [(site, now.get(site)), *exchanges])
        check()
        return [counted(each) - counted(base) for each in found]

    return least_measured(
        options,
        limits,
        [frozenset(first.chosen), *starts, *_uniform(choices, options, max_bytes)],
        whole=lambda plan: counted(together.damage(taken(plan))),
        beside=beside,
        rounds=rounds,
    )


def _uniform(choices: Sequence[Choice], options: Sequence[Option], max_bytes: float) -> list[Keys]:
    """Plans of one setting everywhere, of those that are small enough."""
    uses = {option.key: option.use.get(BYTES, 0.0) for option in options}
    found: dict[str, list[str]] = {}
    for choice in choices:
        found.setdefault(choice.setting, []).append(choice.key)
    return [frozenset(keys) for keys in found.values() if sum(uses[key] for key in keys) <= max_bytes]
