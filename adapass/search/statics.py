"""Static choices (precision, later widths and blocks) with what each alone saves and damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

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
    """Of stored weights."""

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
    report: Callable[[int, int], None],
) -> list[StaticOption]:
    """Every choice with its numbers; ``saving`` prices a changed model against the clean one.

    What single choices save does not add up: neighbours share conversions. So a choice counts with
    the share of the family's joint saving that is in proportion to what it saves alone.
    """
    alone: list[float] = []
    freed: list[int] = []
    stored = tensor_bytes(clean)
    for index, choice in enumerate(choices):
        changed = with_choices(clean, step, [choice])
        alone.append(saving(changed))
        freed.append(stored - tensor_bytes(changed))
        report(index + 1, len(choices))
    everything = one_a_site(choices)
    shares = _shared(alone, saving(with_choices(clean, step, everything)))
    depth = site_depths(clean)
    return [
        StaticOption(step, choice, share, damages[choice.key], depth.get(choice.site, 0.0), free)
        for choice, share, free in zip(choices, shares, freed, strict=True)
    ]


def one_a_site(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    first: dict[str, Choice] = {}
    for choice in choices:
        first.setdefault(choice.site, choice)
    return tuple(first.values())


def site_depths(model: ir.Model) -> dict[str, float]:
    """For each value, the share of the model's work done before the node that makes it."""
    work = FactCache(model).get(Work)
    whole = sum(node.flops for node in work.typical) or 1
    depths: dict[str, float] = {}
    done = 0
    for node, amount in zip(work.flow.nodes, work.typical, strict=True):
        depths |= {value.name: done / whole for value in node.outputs if value.name}
        done += amount.flops
    return depths


def _shared(alone: Sequence[float], together: float) -> list[float]:
    positive = [max(seconds, 0.0) for seconds in alone]
    total = sum(positive)
    if total <= 0.0 or together <= 0.0:
        return list(alone)
    return [seconds * together / total if seconds > 0.0 else seconds for seconds in alone]
