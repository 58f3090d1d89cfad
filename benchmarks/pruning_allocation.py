"""How much each layer loses: the joint allocation against uniform, global magnitude, LAMP and ERK.

    python -m benchmarks.pruning_allocation [minilm-sst2] [resnet56-cifar10] [--refit]

All methods zero the smallest weights of each layer; only the shares of the layers differ, so that the
allocation alone is compared, at the same number of zeros. With ``--refit`` what stays is fitted in closed
form for every method. Ours needs calibration samples and no labels: damage curves of single layers go to
the shared allocator; from its plans, those halfway to the rules, the rules' own and what the ratio before
came to, measured rounds (``adapass.search.allocate_rounds``) go on. The sum of the dynamic programme over
layers is noted beside the allocator's. Quality is that of held-out samples. Finished rows are noted
(``--state``): a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Damage
from adapass.data import Dataset
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.moments import Moments
from adapass.moments.batches import Batches, spread
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
from benchmarks.harness import write_results
from benchmarks.trained import DATA, Quality, Trained, outputs

NAME = "pruning_allocation"
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
CURVE = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Shares at which damage is measured."""
OFFERED = tuple(round(float(share), 3) for share in np.linspace(0.0, 0.98, 50))
HELD: Mapping[str, int] = {"minilm-sst2": 512, "resnet56-cifar10": 1000}
"""Held-out samples that quality is measured on."""
FITTED = 192
MEASURED: Mapping[str, int] = {"minilm-sst2": 96, "resnet56-cifar10": 256}
"""Calibration samples that plans are measured on."""
PROBED: Mapping[str, int] = {"minilm-sst2": 32, "resnet56-cifar10": 64}
"""Of those, the ones that single changes of a plan are measured on."""
SINGLE: Mapping[str, int] = {"minilm-sst2": 48, "resnet56-cifar10": 96}
"""And those that damage curves are."""
LEAST = 1e-4
"""Smaller shares of zeros are none."""
JOINT = "joint"
ROUNDS: Mapping[str, int] = {"minilm-sst2": 3, "resnet56-cifar10": 5}
DAMPING = 1e-2
FIRST_POWER = 3.0
"""Below the first share measured: the squares of the smallest weights, from zero on, grow like this."""

Doubles = npt.NDArray[np.float64]
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


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one ratio on one model."""

    model: str
    refit: bool
    share: float
    method: str
    distortion: float = 0.0
    divergence: float = 0.0
    accuracy: float = 0.0
    zeros: float = 0.0
    note: str = ""


def rows(
    trained: Trained, *, refit: bool, known: Sequence[Row], ratios: Sequence[float] = RATIOS
) -> Iterator[Row]:
    """What is not known yet."""
    count = MEASURED[trained.name]
    there = spread(len(trained.fit), FITTED + count)
    apart = frozenset(there[place] for place in spread(len(there), count))
    fit = trained.fit.subset([index for index in there if index not in apart]) if refit else None
    samples = trained.fit.subset(sorted(apart))
    layers = Layers.of(trained, fit)
    done = {(row.share, row.method): row for row in known if (row.model, row.refit) == (trained.name, refit)}
    held = outputs(trained.clean, trained.held)
    missing = [share for share in ratios if (share, JOINT) not in done]
    curves = Curves.measure(layers, _some(samples, SINGLE[trained.name])) if missing else None
    probes = _some(samples, PROBED[trained.name])
    original = said(layers.model, Batches.of(layers.model, samples, padded=True))
    measuring = Measuring(layers, samples, probes, ROUNDS[trained.name], original)
    before: Shares | None = None
    for share in ratios:
        plans: dict[str, tuple[Shares, str]] = {}
        if curves is not None and share in missing:
            before, history = refined(measuring, curves, share, before)
            _, ours, programme = joint(layers, curves, share, classes=False)
            sums = {"rounds": history, "sum, allocator": ours, "sum, dynamic programme": programme}
            plans[JOINT] = before, json.dumps({**sums, "shares": before})
        else:
            before = json.loads(done[share, JOINT].note)["shares"]
        for method, schedule in SCHEDULES.items():
            if (share, method) not in done:
                plans[method] = schedule(layers.weights, share), ""
        for method, (shares, note) in plans.items():
            yield _row(trained, layers, held, shares, Row(trained.name, refit, share, method, note=note))


def _some(samples: Dataset, count: int) -> Dataset:
    return samples.subset(spread(len(samples), count))


def _row(trained: Trained, layers: Layers, held: Doubles, shares: Shares, row: Row) -> Row:
    """The row with its numbers."""
    found = Quality.of(held, outputs(layers.built(shares), trained.held), trained.held)
    sizes = {name: int(array.size) for name, array in layers.weights.items()}
    return replace(
        row,
        distortion=found.damage.distortion,
        divergence=found.damage.divergence or 0.0,
        accuracy=found.accuracy,
        zeros=sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values()),
    )


def table(found: Sequence[Row]) -> str:
    """Divergence and accuracy by model, ratio and method; the best divergence of a line is starred."""
    methods = [JOINT, *SCHEDULES]
    lines: list[str] = []
    for model, refit in dict.fromkeys((row.model, row.refit) for row in found):
        own = {(row.share, row.method): row for row in found if (row.model, row.refit) == (model, refit)}
        lines.append(f"{model}, {'what stays fitted in closed form' if refit else 'zeros alone'}")
        lines.append(f"{'zeros':<8}" + "".join(f"{method:>26}" for method in methods))
        for share in dict.fromkeys(share for share, _ in own):
            line = [own[share, method] for method in methods if (share, method) in own]
            least = min(row.divergence for row in line)
            cells = [
                f"{row.divergence:>11.4f}{'*' if row.divergence == least else ' '}"
                f"{row.distortion:>7.3f}{100 * row.accuracy:>7.2f}"
                for row in line
            ]
            lines.append(f"{share:<8}" + "".join(cells))
        lines.append("")
    return "\n".join(lines)


def _known(file: Path) -> list[Row]:
    if not file.exists():
        return []
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Shares of zeros by layer: ours against the usual rules.")
    parser.add_argument("models", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--refit", action="store_true", help="fit what stays, for all methods")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="shares of zeros")
    default = Path(tempfile.gettempdir()) / f"adapass-{NAME}.jsonl"
    parser.add_argument("--state", type=Path, default=default, help="where finished rows are noted")
    given = parser.parse_args(arguments)
    state: Path = given.state
    for name in given.models:
        started = time.monotonic()
        trained = Trained.load(name, HELD[name])
        for row in rows(trained, refit=given.refit, known=_known(state), ratios=given.ratios):
            with state.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    report(_known(state))
    return 0


def report(found: Sequence[Row]) -> None:
    """Write the results, with what they were taken with."""
    ordered = sorted(found, key=lambda row: (row.model, row.refit, row.share))
    machine = fingerprint(1)
    heading = (
        f"{NAME}: divergence, distortion and accuracy (%) on held-out samples; * least divergence\n"
        + "".join(
            f"{name}: held out {HELD[name]}, curves from {SINGLE[name]} calibration samples at shares "
            f"{', '.join(map(str, CURVE))}, plans from {MEASURED[name]}, changes from {PROBED[name]}, "
            f"fits from {FITTED}\n"
            for name in dict.fromkeys(row.model for row in ordered)
        )
        + f"machine {machine.processor}, {machine.cores} cores"
    )
    result = {"rows": [asdict(row) for row in ordered], "machine": machine.key}
    write_results(NAME, result, f"{heading}\n\n{table(ordered)}")


if __name__ == "__main__":
    sys.exit(main())
