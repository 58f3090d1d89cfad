"""Static choices (precision, later widths and blocks) with what each alone saves and damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Damage, Samples
from adapass.facts import FactCache
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import clone
from adapass.search.structural import Effect, Layers, effect_of, savings

MAX_KINDS: Final = 12
CLEAN, ALL = "clean", "all"
Seconds = Callable[[str, Mapping[str, ir.Model]], Mapping[str, float]]
"""From a text that names the question, and models by name, to mean seconds of a call of each, in turns."""


@dataclass(frozen=True, slots=True)
class StaticOption:
    """A choice with its numbers, all relative to the clean model."""

    step: BudgetedPass
    choice: Choice
    saving: float
    """Predicted seconds per call; negative where it costs time."""
    damage: Damage
    depth: float
    """Share of the model's work that is done before its site."""
    saved_bytes: int
    """Of stored weights; 0 where nobody asked."""
    effect: Effect | None = None
    """What it leaves of other choices' savings; ``None``: everything."""

    @property
    def slot(self) -> str:
        return f"{self.step}|{self.choice.site}"

    @property
    def key(self) -> str:
        return f"{self.slot}={self.choice.setting}"


def with_choices(
    clean: ir.Model, step: BudgetedPass, choices: Sequence[Choice], fit: Samples | None = None
) -> ir.Model:
    """Some choices made, fitted on ``fit`` where it is given.

    For latency a few samples do, but without any it is another model: with the placeholder scales of 8 bits
    the runtime leaves conversions unfused, and a network took three times as long.
    """
    model = clone(clean)
    step.apply(model, FactCache(model), choices)
    if fit is not None and choices:
        step.fit(model, fit)
    return model


def priced(
    clean: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    damages: Mapping[str, Damage],
    seconds: Seconds,
    *,
    fit: Samples,
    sized: bool = False,
) -> list[StaticOption]:
    """Every choice, one a site, with its numbers.

    What single choices save does not add up: neighbours share conversions, and one alone has to pay for all
    of them. So choices are priced in the company they will have: what the whole model loses when all
    choices of one kind are taken back, everything else made. A choice counts with its part of what all
    of them save together, in proportion to that. ``fit`` are the few samples that models to be timed are
    fitted on. Bytes are looked at where ``sized`` asks for it.
    """
    places = _places(clean)
    kinds = _kinds(choices, places)
    models = {CLEAN: clean, ALL: with_choices(clean, step, choices, fit)}
    for name, members in kinds.items():
        back = {choice.key for choice in members}
        rest = [choice for choice in choices if choice.key not in back]
        models[name] = with_choices(clean, step, rest, fit)
    timed = seconds(f"{step}|{[choice.key for choice in choices]}", models)
    together = timed[CLEAN] - timed[ALL]
    alone = {
        choice.key: (timed[name] - timed[ALL]) / len(members)
        for name, members in kinds.items()
        for choice in members
    }
    shares = _shared(alone, together)
    freed = _freed_bytes(clean, step, choices) if sized else {}
    return [
        StaticOption(
            step,
            choice,
            shares[choice.key],
            damages[choice.key],
            places[choice.site].depth if choice.site in places else 0.0,
            freed.get(choice.key, 0),
        )
        for choice in choices
    ]


def companies(choices: Sequence[Choice]) -> list[tuple[Choice, ...]]:
    """Choices in sets of one a site: the preferred settings of all sites, the next ones, and so on."""
    by_site: dict[str, list[Choice]] = {}
    for choice in choices:
        by_site.setdefault(choice.site, []).append(choice)
    most = max((len(own) for own in by_site.values()), default=0)
    return [tuple(own[place] for own in by_site.values() if place < len(own)) for place in range(most)]


def priced_structural(
    clean: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    damages: Mapping[str, Damage],
    seconds: Seconds,
    *,
    fit: Samples,
) -> list[StaticOption]:
    """Every setting of every site of a structural family, priced alone: what two of them share is known.

    Choices that leave all work as it is come without a saving, and are left out. ``fit`` are the few
    samples on which work that depends on data is counted.
    """
    layers, facts = Layers.of(clean), FactCache(clean)
    effects = {choice.key: effect_of(clean, layers, step, choice, fit, facts) for choice in choices}
    offered = [choice for choice in choices if effects[choice.key].flops > 0.0]
    saved = savings(clean, step, offered, effects, seconds, fit)
    return [
        StaticOption(
            step,
            choice,
            saved[choice.key],
            damages[choice.key],
            effects[choice.key].depth,
            effects[choice.key].freed_bytes,
            effects[choice.key],
        )
        for choice in offered
    ]


def overlap(one: StaticOption, other: StaticOption) -> float:
    """Share of ``other``'s saving that is gone where ``one`` is chosen too."""
    if one.effect is None:
        return 0.0
    return (
        one.effect.of_site(other.choice.site) if other.effect is None else one.effect.of_effect(other.effect)
    )


def _kinds(choices: Sequence[Choice], places: Mapping[str, _Place]) -> dict[str, list[Choice]]:
    """Choices by kind, most work first; what is left after ``MAX_KINDS`` is lumped together."""
    found: dict[Kind, list[Choice]] = {}
    for choice in choices:
        found.setdefault(places[choice.site].kind if choice.site in places else NO_KIND, []).append(choice)
    ranked = sorted(found.items(), key=lambda item: (-item[0][1] * len(item[1]), item[0]))
    named: dict[str, list[Choice]] = {}
    for number, (_, members) in enumerate(ranked):
        named.setdefault(f"without kind {min(number, MAX_KINDS - 1)}", []).extend(members)
    return named


Kind = tuple[str, int, int]
"""Operator, operations and bytes of weights: what takes equally long."""
NO_KIND: Final[Kind] = ("", 0, 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a model a value is computed."""

    depth: float
    """Share of the model's work before it."""
    kind: Kind


def _places(model: ir.Model) -> dict[str, _Place]:
    work = FactCache(model).get(Work)
    whole = sum(node.flops for node in work.typical) or 1
    places: dict[str, _Place] = {}
    done = 0
    for node, amount in zip(work.flow.nodes, work.typical, strict=True):
        names = [value.name for value in node.outputs if value.name]
        kind = (node.op_type, amount.flops, amount.weight_bytes)
        places |= dict.fromkeys(names, _Place(done / whole, kind))
        done += amount.flops
    return places


def _freed_bytes(clean: ir.Model, step: BudgetedPass, choices: Sequence[Choice]) -> dict[str, int]:
    stored = tensor_bytes(clean)
    return {c.key: stored - tensor_bytes(with_choices(clean, step, [c])) for c in choices}


def _shared(alone: Mapping[str, float], together: float) -> dict[str, float]:
    total = sum(max(seconds, 0.0) for seconds in alone.values())
    if total <= 0.0 or together <= 0.0:
        return dict(alone)
    return {key: s * together / total if s > 0.0 else s for key, s in alone.items()}
