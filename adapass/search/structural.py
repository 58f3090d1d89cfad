"""Choices that make work smaller (narrower layers, no block, fewer tokens): what each does, what it saves.

Two of them on one layer do not save what each saves alone, and 8 bits save less on a layer that is half as
wide, or sees half the tokens. How much less follows from the work that is left: a product of stored weights
takes time in proportion to them. So every choice is made alone once, on a copy, and what it leaves of each
layer noted; where weights do not show it, the family says what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Samples
from adapass.facts import FactCache
from adapass.graph.constants import constant_tensor
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import clone

CLEAN: Final = "clean"
TOGETHER: Final = 8
"""Models timed in turns; all of them are in memory."""
MAX_PRICED: Final = 48
"""Kinds of choices that are timed; smaller ones are priced by their operations."""

Seconds = Callable[[str, Mapping[str, ir.Model]], Mapping[str, float]]
Kind = tuple[str, int, int]
"""Setting, operations and bytes saved: what saves equally much."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one choice, made alone, does to the layers of a model."""

    left: Mapping[str, float]
    """Share of its work that a layer keeps, by the name of its output; only layers with less than before."""
    saved: Mapping[str, float]
    """Operations that these layers save."""
    depth: float
    """Share of the model's work before what is saved, on average."""
    freed_bytes: int

    @property
    def flops(self) -> float:
        return sum(self.saved.values())

    def of_site(self, site: str) -> float:
        """Share of the work at ``site`` that this takes away."""
        return 1.0 - self.left.get(site, 1.0)

    def of_effect(self, other: Effect) -> float:
        """Share of what ``other`` saves that is no longer there to be saved."""
        lost = sum(flops * self.of_site(site) for site, flops in other.saved.items())
        return lost / other.flops if other.flops else 0.0


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a clean model that effects are told of."""

    elements: Mapping[str, int]
    """Stored weights, by the name of the output."""
    flops: Mapping[str, int]
    depth: Mapping[str, float]
    nbytes: int

    @classmethod
    def of(cls, model: ir.Model) -> Layers:
        work = FactCache(model).get(Work)
        whole = sum(node.flops for node in work.typical) or 1
        flops: dict[str, int] = {}
        depth: dict[str, float] = {}
        done = 0
        for node, amount in zip(work.flow.nodes, work.typical, strict=True):
            name = node.outputs[0].name or ""
            flops[name], depth[name] = amount.flops, done / whole
            done += amount.flops
        return cls(stored_elements(model), flops, depth, tensor_bytes(model))


def stored_elements(model: ir.Model) -> dict[str, int]:
    """Stored weights of each node of the main graph that has some, by the name of its first output."""
    found: dict[str, int] = {}
    for node in model.graph:
        stored = [constant_tensor(value) for value in node.inputs if value is not None]
        sizes = [
            prod(tensor.shape.numpy()) for tensor in stored if tensor is not None and len(tensor.shape) > 1
        ]
        if sizes:
            found[node.outputs[0].name or ""] = sum(sizes)
    return found


def effect_of(
    clean: ir.Model, layers: Layers, step: BudgetedPass, choice: Choice, samples: Samples, facts: FactCache
) -> Effect:
    """What is left where ``choice`` alone is made: by the family's word, else as seen on a copy.

    ``facts`` are those of ``clean``: to find them takes seconds.
    """
    said = step.remaining(clean, facts, choice, samples)
    if said is not None:
        return _effect(layers, {name: share for name, share in said.items() if share < 1.0}, 0)
    changed = clone(clean)
    step.apply(changed, FactCache(changed), [choice])
    now = stored_elements(changed)
    left = {
        name: now.get(name, 0) / size for name, size in layers.elements.items() if now.get(name, 0) < size
    }
    return _effect(layers, left, layers.nbytes - tensor_bytes(changed))


def _effect(layers: Layers, left: Mapping[str, float], freed_bytes: int) -> Effect:
    saved = {name: layers.flops.get(name, 0) * (1.0 - share) for name, share in left.items()}
    total = sum(saved.values())
    depth = sum(layers.depth.get(name, 0.0) * flops for name, flops in saved.items())
    return Effect(left, saved, depth / total if total else 0.0, freed_bytes)


def decides_by_data(step: BudgetedPass) -> bool:
    """Whether what a family leaves to do depends on the samples."""
    return type(step).remaining is not BudgetedPass.remaining


def savings(
    clean: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    effects: Mapping[str, Effect],
    seconds: Seconds,
    fit: Samples,
) -> dict[str, float]:
    """Seconds that each choice saves, by its key: timed for all choices of one kind together, one a site.

    ``fit`` are a few samples for families whose thresholds decide how much work is left.
    """
    kinds: dict[Kind, list[Choice]] = {}
    for choice in choices:
        effect = effects[choice.key]
        kinds.setdefault((choice.setting, round(effect.flops), effect.freed_bytes), []).append(choice)
    ranked = sorted(kinds.items(), key=lambda item: (-item[0][1] * len(item[1]), item[0]))
    found: dict[str, float] = {}
    timed_seconds, timed_flops = 0.0, 0.0
    for start in range(0, min(len(ranked), MAX_PRICED), TOGETHER):
        group = ranked[start : min(start + TOGETHER, MAX_PRICED)]
        models = {CLEAN: clean}
        for number, (_, members) in enumerate(group):
            changed = clone(clean)
            step.apply(changed, FactCache(changed), members)
            if decides_by_data(step):
                step.fit(changed, fit)
            models[f"kind {number}"] = changed
        timed = seconds(f"{step}|{[choice.key for _, members in group for choice in members]}", models)
        for number, (_, members) in enumerate(group):
            saved = (timed[CLEAN] - timed[f"kind {number}"]) / len(members)
            found |= {choice.key: saved for choice in members}
            timed_seconds += saved * len(members)
            timed_flops += sum(effects[choice.key].flops for choice in members)
    rate = timed_seconds / timed_flops if timed_flops else 0.0
    for _, members in ranked[MAX_PRICED:]:
        found |= {choice.key: rate * effects[choice.key].flops for choice in members}
    return found
