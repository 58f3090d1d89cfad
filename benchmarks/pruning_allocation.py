"""How much each layer loses: the joint allocation against uniform, global magnitude, LAMP and ERK.

    python -m benchmarks.pruning_allocation [minilm-sst2] [resnet56-cifar10] [--refit]

All methods zero the smallest weights of each layer; only the shares of the layers differ, so that the
allocation alone is compared, at the same number of zeros. With ``--refit`` what stays is fitted in closed
form for every method. Ours takes damage curves of single layers, measured on calibration samples without
labels, and gives them to the shared allocator; the sum of the dynamic programme over layers is noted beside.

Damages do not quite add up. So the plans that follow from either measure of damage, those halfway to the
rules that look at single layers, and then plans between the best two, are measured as a whole on the
calibration samples, and the best is taken. Quality is that of held-out samples. Finished rows are noted
(``--state``): a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from adapass.passes.prune.curves import Change, measured
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored
from adapass.passes.sparsify.patterns import Pattern
from adapass.passes.sparsify.saliency import by_norm, descended
from adapass.passes.sparsify.schedules import SCHEDULES
from adapass.passes.sparsify.sparsify import Sparsify
from adapass.search.allocate import Option, Problem, minimize_damage
from adapass.search.allocate_layers import LayerOption, least_damage
from adapass.search.damage import damage_of
from benchmarks.harness import write_results
from benchmarks.trained import DATA, Quality, Trained, outputs

NAME = "pruning_allocation"
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
CURVE = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Shares at which damage is measured."""
OFFERED = tuple(round(float(share), 3) for share in np.linspace(0.0, 0.95, 39))
HELD, MEASURED, FITTED = 512, 96, 192
JOINT = "joint"
ROUNDS = 3
"""Plans between the best two so far that are measured as well."""
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
        op = self.ops[name]
        before = stored(self.model, op.weight)
        matrix = op.matrix(before)
        pattern = Pattern.parse(f"unstructured-{share:.4f}")
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
            if share >= 1e-4:
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


def corrected(
    layers: Layers, curves: Curves, samples: Dataset, original: Doubles, share: float
) -> tuple[Shares, dict[str, float]]:
    """The plan that damages the calibration samples least as a whole; what each candidate damages."""
    sizes = {name: int(array.size) for name, array in layers.weights.items()}
    candidates = dict(_candidates(layers, curves, sizes, share))
    found: dict[str, float] = {}
    first = next(iter(candidates))
    for _ in range(1 + ROUNDS):
        for name, shares in candidates.items():
            if name not in found:
                damage = damage_of(original, outputs(layers.built(shares), samples))
                found[name] = damage.additive(classes=True)
        first, second = sorted(found, key=lambda name: (found[name], name))[:2]
        between = {name: (candidates[first][name] + candidates[second][name]) / 2 for name in sizes}
        candidates[f"({first} + {second})"] = as_much(between, sizes, share)
    return candidates[first], found


def _candidates(
    layers: Layers, curves: Curves, sizes: Mapping[str, int], share: float
) -> Iterator[tuple[str, Shares]]:
    by_divergence, _, _ = joint(layers, curves, share, classes=True)
    by_distortion, _, _ = joint(layers, curves, share, classes=False)
    yield "divergence", as_much(by_divergence, sizes, share)
    yield "distortion", as_much(by_distortion, sizes, share)
    for rule in ("lamp", "uniform", "erk"):
        other = SCHEDULES[rule](layers.weights, share)
        mixed = {name: (by_distortion[name] + other[name]) / 2 for name in sizes}
        yield f"distortion and {rule}", as_much(mixed, sizes, share)


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one ratio on one model."""

    model: str
    refit: bool
    share: float
    method: str
    distortion: float
    divergence: float
    accuracy: float
    zeros: float
    note: str = ""


def rows(trained: Trained, *, refit: bool, known: Sequence[Row]) -> Iterator[Row]:
    """What is not known yet."""
    there = spread(len(trained.fit), FITTED + MEASURED)
    apart = frozenset(there[place] for place in spread(len(there), MEASURED))
    fit = trained.fit.subset([index for index in there if index not in apart]) if refit else None
    samples = trained.fit.subset(sorted(apart))
    layers = Layers.of(trained, fit)
    sizes = {name: int(array.size) for name, array in layers.weights.items()}
    done = {(row.share, row.method) for row in known if (row.model, row.refit) == (trained.name, refit)}
    held = outputs(trained.clean, trained.held)
    missing = [share for share in RATIOS if (share, JOINT) not in done]
    curves = Curves.measure(layers, samples) if missing else None
    reference = outputs(trained.clean, samples)
    for share in RATIOS:
        plans: dict[str, tuple[Shares, str]] = {}
        if curves is not None and share in missing:
            chosen, damages = corrected(layers, curves, samples, reference, share)
            _, ours, programme = joint(layers, curves, share, classes=False)
            damages |= {"sum, allocator": ours, "sum, dynamic programme": programme}
            plans[JOINT] = chosen, json.dumps(damages)
        for method, schedule in SCHEDULES.items():
            if (share, method) not in done:
                plans[method] = schedule(layers.weights, share), ""
        for method, (shares, note) in plans.items():
            found = Quality.of(held, outputs(layers.built(shares), trained.held), trained.held)
            zeros = sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
            yield Row(
                trained.name,
                refit,
                share,
                method,
                found.damage.distortion,
                found.damage.divergence or 0.0,
                found.accuracy,
                zeros,
                note,
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
    default = Path(tempfile.gettempdir()) / f"adapass-{NAME}.jsonl"
    parser.add_argument("--state", type=Path, default=default, help="where finished rows are noted")
    given = parser.parse_args(arguments)
    state: Path = given.state
    for name in given.models:
        started = time.monotonic()
        for row in rows(Trained.load(name, HELD), refit=given.refit, known=_known(state)):
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
        f"{NAME}: divergence, distortion and accuracy (%) on {HELD} held-out samples; * least divergence\n"
        f"curves from {MEASURED} calibration samples at shares {', '.join(map(str, CURVE))}; "
        f"fits from {FITTED}\n"
        f"machine {machine.processor}, {machine.cores} cores"
    )
    result = {"rows": [asdict(row) for row in ordered], "machine": machine.key}
    write_results(NAME, result, f"{heading}\n\n{table(ordered)}")


if __name__ == "__main__":
    sys.exit(main())
