"""The problem the allocator solves: settings with predicted saving and damage, and what ties them together.

Predictions add up over the chosen settings, except where an ``Interaction`` says otherwise. Totals are sums
rounded once (``math.fsum``), so they depend on what is chosen and not on the order it is listed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from adapass.errors import UsageError

Exclusion = tuple[str, str]
Implication = tuple[str, str | tuple[str, ...]]

LARGEST = 1e150
"""Numbers above this are refused: sums of them could overflow."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting at one slot; at most one option of a slot is chosen, and choosing none changes nothing."""

    key: str
    slot: str
    """What can have one setting at a time, usually a site together with a family."""
    saving: float
    """Predicted saving of the primary resource, usually seconds; negative where the setting costs."""
    damage: float
    """Predicted damage; negative where the setting helps."""
    use: Mapping[str, float] = field(default_factory=dict[str, float])
    """Change of further resources by name (bytes, joules), against not choosing it; negative saves."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """What two options of different slots add on top of their own numbers when both are chosen."""

    first: str
    second: str
    saving: float = 0.0
    damage: float = 0.0
    use: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Totals:
    saving: float
    damage: float
    use: Mapping[str, float]
    """Of every resource the problem mentions."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Options and the pairs among them. Construction checks everything and names the key at fault."""

    options: tuple[Option, ...]
    exclusions: tuple[Exclusion, ...] = ()
    """Two keys that cannot both be chosen."""
    implications: tuple[Implication, ...] = ()
    """The first key may be chosen only together with the second, or with any of several."""
    interactions: tuple[Interaction, ...] = ()

    def __post_init__(self) -> None:
        slots = _slots_by_key(self.options)
        for first, second in self.exclusions:
            _check_known(slots, first, second, what="exclusion")
            if first == second:
                raise UsageError(f"the exclusion of {first!r} names it twice; leave the option out instead")
        for implication in self.implications:
            _check_known(slots, implication[0], *needed(implication), what="implication")
            if not needed(implication):
                raise UsageError(f"the implication of {implication[0]!r} lists nothing to be chosen with it")
        _check_interactions(self.interactions, slots)

    @property
    def resources(self) -> tuple[str, ...]:
        """Names of the further resources any option or interaction mentions, sorted."""
        parts: list[Option | Interaction] = [*self.options, *self.interactions]
        return tuple(sorted({name for part in parts for name in part.use}))

    def totals(self, chosen: Collection[str]) -> Totals:
        """What ``chosen`` amounts to, interactions included."""
        self._check_chosen(chosen)
        parts = list(self._active(frozenset(chosen)))
        return Totals(
            math.fsum(part.saving for part in parts),
            math.fsum(part.damage for part in parts),
            {name: math.fsum(part.use.get(name, 0.0) for part in parts) for name in self.resources},
        )

    def allows(self, chosen: Collection[str]) -> bool:
        """Whether ``chosen`` keeps to one option a slot, the exclusions and the implications."""
        self._check_chosen(chosen)
        taken = frozenset(chosen)
        slots = [option.slot for option in self.options if option.key in taken]
        return (
            len(slots) == len(set(slots))
            and not any(taken.issuperset(pair) for pair in self.exclusions)
            and not any(rule[0] in taken and taken.isdisjoint(needed(rule)) for rule in self.implications)
        )

    def _active(self, taken: frozenset[str]) -> Iterator[Option | Interaction]:
        yield from (option for option in self.options if option.key in taken)
        yield from (pair for pair in self.interactions if pair.first in taken and pair.second in taken)

    def _check_chosen(self, chosen: Collection[str]) -> None:
        unknown = set(chosen).difference(option.key for option in self.options)
        if unknown:
            raise UsageError(f"no option of the problem has the key {min(unknown)!r}")


def needed(implication: Implication) -> tuple[str, ...]:
    """The keys of which one must be chosen."""
    second = implication[1]
    return (second,) if isinstance(second, str) else second


def _slots_by_key(options: tuple[Option, ...]) -> dict[str, str]:
    slots: dict[str, str] = {}
    for option in options:
        if option.key in slots:
            raise UsageError(f"two options have the key {option.key!r}; keys must be unique")
        _check_numbers(option, f"option {option.key!r}")
        slots[option.key] = option.slot
    return slots


def _check_interactions(interactions: tuple[Interaction, ...], slots: Mapping[str, str]) -> None:
    seen: set[frozenset[str]] = set()
    for pair in interactions:
        name = f"the interaction of {pair.first!r} and {pair.second!r}"
        _check_known(slots, pair.first, pair.second, what="interaction")
        if slots[pair.first] == slots[pair.second]:
            raise UsageError(f"{name} is within slot {slots[pair.first]!r}: they are never chosen together")
        if frozenset((pair.first, pair.second)) in seen:
            raise UsageError(f"{name} is given twice; add the two up")
        _check_numbers(pair, name)
        seen.add(frozenset((pair.first, pair.second)))


def _check_known(slots: Mapping[str, str], *keys: str, what: str) -> None:
    for key in keys:
        if key not in slots:
            raise UsageError(f"an {what} names {key!r}, which is not the key of an option")


def _check_numbers(part: Option | Interaction, name: str) -> None:
    numbers = {
        "saving": part.saving,
        "damage": part.damage,
        **{f"use of {k}": v for k, v in part.use.items()},
    }
    for what, value in numbers.items():
        if not abs(value) <= LARGEST:
            raise UsageError(f"the {what} of {name} is {value}; it must be a finite number up to {LARGEST:g}")
