"""Static choices (precision, later widths and blocks) with what each alone saves and damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from adapass.analyses.cut_points import CutPoints
from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.facts import FactCache
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import clone


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

    @property
    def slot(self) -> str:
        return f"{self.step}|{self.choice.site}"

    @property
    def key(self) -> str:
        return f"{self.slot}={self.choice.setting}"


def with_choices(clean: ir.Model, step: BudgetedPass, choices: Sequence[Choice]) -> ir.Model:
    """The structure after some choices; weights and scales are not fitted, which latency does not see."""
    model = clone(clean)
    step.apply(model, FactCache(model), choices)
    return model


def priced(
    clean: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    damages: Mapping[str, Damage],
    saving: Callable[[ir.Model], float],
    *,
    report: Callable[[int, int], None],
    sized: bool = False,
) -> list[StaticOption]:
    """Every choice with its numbers; ``saving`` prices a changed model against the clean one.

    Choices of one kind in one region (the four equal products of an attention block) are priced together,
    and each kind once. What kinds save does not add up: neighbours share conversions. So a choice counts
    with the share of the family's joint saving that is in proportion to what its kind saves.
    Bytes are looked at where ``sized`` asks for it.
    """
    places = _places(clean)
    groups: dict[tuple[int, Kind], list[Choice]] = {}
    for choice in choices:
        place = places.get(choice.site, _Place(0, 0.0, ("", 0, 0)))
        groups.setdefault((place.region, place.kind), []).append(choice)
    price: dict[tuple[Kind, int], float] = {}
    alone: dict[str, float] = {}
    for index, ((_, kind), members) in enumerate(groups.items()):
        sort = (kind, len(members))
        if sort not in price:
            price[sort] = saving(with_choices(clean, step, members)) / len(members)
        alone |= {choice.key: price[sort] for choice in members}
        report(index + 1, len(groups))
    shares = _shared(alone, saving(with_choices(clean, step, one_a_site(choices))))
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


def one_a_site(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    first: dict[str, Choice] = {}
    for choice in choices:
        first.setdefault(choice.site, choice)
    return tuple(first.values())


Kind = tuple[str, int, int]
"""Operator, operations and bytes of weights: what takes equally long."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a model a value is computed."""

    region: int
    """Number of single-entry cut points before it."""
    depth: float
    """Share of the model's work before it."""
    kind: Kind


def _places(model: ir.Model) -> dict[str, _Place]:
    facts = FactCache(model)
    work, cuts = facts.get(Work), {point.value for point in facts.get(CutPoints).points}
    whole = sum(node.flops for node in work.typical) or 1
    places: dict[str, _Place] = {}
    done, region = 0, 0
    for node, amount in zip(work.flow.nodes, work.typical, strict=True):
        names = [value.name for value in node.outputs if value.name]
        kind = (node.op_type, amount.flops, amount.weight_bytes)
        places |= dict.fromkeys(names, _Place(region, done / whole, kind))
        done += amount.flops
        region += any(name in cuts for name in names)
    return places


def _freed_bytes(clean: ir.Model, step: BudgetedPass, choices: Sequence[Choice]) -> dict[str, int]:
    stored = tensor_bytes(clean)
    return {c.key: stored - tensor_bytes(with_choices(clean, step, [c])) for c in choices}


def _shared(alone: Mapping[str, float], together: float) -> dict[str, float]:
    total = sum(max(seconds, 0.0) for seconds in alone.values())
    if total <= 0.0 or together <= 0.0:
        return dict(alone)
    return {key: s * together / total if s > 0.0 else s for key, s in alone.items()}
