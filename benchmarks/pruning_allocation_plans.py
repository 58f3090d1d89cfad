"""How many weights each layer loses: plans of one method and of another, and what they do to a model.

See ``benchmarks.pruning_allocation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Damage
from adapass.data import Dataset
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments import Moments
from adapass.moments.batches import Batches
from adapass.moments.second import gather
from adapass.moments.sources import Source
from adapass.passes.prune.curves import Change, measured, said
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored
from adapass.passes.sparsify.patterns import Pattern
from adapass.passes.sparsify.saliency import by_norm, descended
from adapass.passes.sparsify.schedules import SCHEDULES
from adapass.passes.sparsify.sparsify import Sparsify
from adapass.search.allocate import Option, Problem, minimize_damage
from adapass.search.allocate_layers import LayerOption, least_damage
from adapass.search.allocate_rounds import Change as Step
from adapass.search.allocate_rounds import Plan, measured_rounds
from adapass.search.damage import damage_of
from benchmarks.trained import Trained

CURVE = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Shares at which damage is measured."""
OFFERED = tuple(round(float(share), 3) for share in np.linspace(0.0, 0.98, 50))
LEAST = 1e-4
"""Smaller shares of zeros are none."""
DAMPING = 1e-2
FIRST_POWER = 3.0
"""Below the first share measured: the squares of the smallest weights, from zero on, grow like this."""

Shares = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Layers:
    """The products of a model whose weights get zeros."""

    model: ir.Model
    ops: Mapping[str, LinearOp]
    moments: Mapping[Source, Moments]
    """Of what they read; empty where nothing is fitted."""
    known: dict[tuple[str, float], dict[str, Array]] = field(
        default_factory=dict[tuple[str, float], dict[str, Array]]
    )
    """Contents worked out before."""

    @classmethod
    def of(cls, trained: Trained, fit: Dataset | None) -> Layers:
        sites = {
            choice.site for choice in Sparsify().propose(trained.clean, FactCache(trained.clean)).choices
        }
        ops = {op.node: op for op in linear_ops(trained.clean) if op.node in sites}
        if fit is None:
            return cls(trained.clean, ops, {})
        batches = Batches.of(trained.clean, fit, rows_each=24, padded=True)
        return cls(trained.clean, ops, gather(trained.clean, [op.source for op in ops.values()], batches))

    @property
    def weights(self) -> dict[str, Array]:
        return {name: stored(self.model, op.weight) for name, op in self.ops.items()}

    def contents(self, name: str, share: float) -> dict[str, Array]:
        """Initializers of a layer that loses its smallest weights."""
        key = name, share
        if key not in self.known:
            self.known[key] = self._contents(name, share)
        return self.known[key]

    def _contents(self, name: str, share: float) -> dict[str, Array]:
        op = self.ops[name]
        before = stored(self.model, op.weight)
        if share < LEAST:
            names = [op.weight] if op.bias is None or not self.moments else [op.weight, op.bias]
            return {each: stored(self.model, each) for each in names}
        matrix = op.matrix(before)
        pattern = Pattern.parse(f"unstructured-{min(share, 1.0 - LEAST):.4f}")  # a pattern leaves something
        mask = by_norm(matrix, None, pattern)
        if not self.moments:
            return {op.weight: op.tensor(np.where(mask, matrix, 0.0), before)}
        seen = self.moments[op.source]
        gram = seen.gram / seen.rows if op.bias is None else seen.covariance
        sparse = descended(matrix, gram, mask, damping=DAMPING, steps=16)
        found: dict[str, Array] = {op.weight: op.tensor(sparse, before)}
        if op.bias is not None:
            bias = stored(self.model, op.bias)
            found[op.bias] = (bias + (seen.total / seen.rows) @ (matrix - sparse)).astype(bias.dtype)
        return found

    def built(self, shares: Shares) -> ir.Model:
        model = clone(self.model)
        for name, share in shares.items():
            if share >= LEAST:
                for initializer, array in self.contents(name, share).items():
                    store(model, initializer, array)
        return model


@dataclass(frozen=True, slots=True)
class Curves:
    """Damage of each layer alone, by share."""

    damages: Mapping[str, Mapping[float, Damage]]

    @classmethod
    def measure(cls, layers: Layers, samples: Dataset) -> Curves:
        changes = [
            Change(f"{share} {name}", name, layers.contents(name, share))
            for name in layers.ops
            for share in CURVE
        ]
        with one_thread():
            found = measured(layers.model, changes, Batches.of(layers.model, samples, padded=True))
        return cls({name: {share: found[f"{share} {name}"] for share in CURVE} for name in layers.ops})

    def at(self, name: str, share: float, *, classes: bool) -> float:
        """Never falling; straight between logarithms of what was measured."""
        points = self.damages[name]
        values = np.maximum.accumulate([max(points[s].additive(classes=classes), 1e-12) for s in CURVE])
        if share <= CURVE[0]:
            return float(values[0] * (share / CURVE[0]) ** FIRST_POWER)
        return float(np.exp(np.interp(share, CURVE, np.log(values))))


def joint(layers: Layers, curves: Curves, share: float, *, classes: bool) -> tuple[Shares, float, float]:
    """Shares by the shared allocator; its sum of damages, and that of the dynamic programme."""
    sizes = {name: int(array.size) for name, array in layers.weights.items()}
    removed = int(share * sum(sizes.values()))
    offered = {
        name: [LayerOption(int(size * s), curves.at(name, s, classes=classes) if s else 0.0) for s in OFFERED]
        for name, size in sizes.items()
    }
    problem = Problem(
        tuple(
            Option(f"{name} {place}", name, float(option.removed), option.damage)
            for name, options in offered.items()
            for place, option in enumerate(options)
        )
    )
    allocation = minimize_damage(problem, min_saving=float(removed))
    places = {key.rsplit(" ", 1)[0]: int(key.rsplit(" ", 1)[1]) for key in allocation.chosen}
    shares = {name: OFFERED[places.get(name, 0)] for name in sizes}
    programme = least_damage(offered, removed)
    return shares, allocation.damage, sum(option.damage for option in programme.values())


def as_much(shares: Shares, sizes: Mapping[str, int], share: float) -> Shares:
    """The same shares, all a little smaller or larger, so that as many weights go in total."""
    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        gone = sum(min(middle * shares[name], 0.999) * size for name, size in sizes.items())
        low, high = (middle, high) if gone < share * sum(sizes.values()) else (low, middle)
    return {name: min(high * s, 0.999) for name, s in shares.items()}


@dataclass(frozen=True, slots=True)
class Measuring:
    """What plans do on the calibration samples, as a whole and beside each other."""

    layers: Layers
    samples: Dataset
    probes: Dataset
    rounds: int
    original: tuple[Array, ...]
    """What the model says on the samples."""

    def whole(self, plan: Plan) -> float:
        """Divergence from the original."""
        batches = Batches.of(self.layers.model, self.samples, padded=True)
        planned = self.layers.built({name: OFFERED[place] for name, place in plan.items()})
        return _between(self.original, said(planned, batches)).additive(classes=True)

    def beside(self, plan: Plan, steps: Sequence[Step]) -> dict[Step, float]:
        """Squared distortion, which on few samples says more than the divergence."""
        model = self.layers.model
        batches = Batches.of(model, self.probes, padded=True)
        original = said(model, batches)
        planned = self.layers.built({name: OFFERED[place] for name, place in plan.items()})
        base = _between(original, said(planned, batches)).additive(classes=False)
        changes = [
            Change(f"{place} {name}", name, self.layers.contents(name, OFFERED[place]))
            for name, place in steps
        ]
        with one_thread():
            found = measured(planned, changes, batches, original)
        return {(name, place): found[f"{place} {name}"].distortion ** 2 - base for name, place in steps}


def _between(original: Sequence[Array], changed: Sequence[Array]) -> Damage:
    return damage_of(np.concatenate(original), np.concatenate(changed))


def refined(
    measuring: Measuring, curves: Curves, share: float, before: Shares | None
) -> tuple[Shares, tuple[float, ...]]:
    """The plan that measured rounds come to, and how its damage fell."""
    sizes = {name: int(array.size) for name, array in measuring.layers.weights.items()}
    layers = {
        name: [LayerOption(int(size * s), curves.at(name, s, classes=False) if s else 0.0) for s in OFFERED]
        for name, size in sizes.items()
    }
    starts = [_snapped(shares) for shares in _starts(measuring.layers, curves, sizes, share, before)]
    found = measured_rounds(
        layers,
        int(share * sum(sizes.values())),
        starts,
        whole=measuring.whole,
        beside=measuring.beside,
        rounds=measuring.rounds,
    )
    return as_much({name: OFFERED[place] for name, place in found.plan.items()}, sizes, share), found.history


def _snapped(shares: Shares) -> Plan:
    return {name: int(np.abs(np.subtract(OFFERED, share)).argmin()) for name, share in shares.items()}


def _starts(
    layers: Layers, curves: Curves, sizes: Mapping[str, int], share: float, before: Shares | None
) -> Iterator[Shares]:
    for classes in (True, False):
        ours, _, _ = joint(layers, curves, share, classes=classes)
        yield as_much(ours, sizes, share)
    rules = [schedule(layers.weights, share) for schedule in SCHEDULES.values()]
    yield from rules
    for other in rules:
        mixed = {name: (ours[name] + other[name]) / 2 for name in sizes}
        yield as_much(mixed, sizes, share)
    if before is not None:
        yield as_much(before, sizes, share)
