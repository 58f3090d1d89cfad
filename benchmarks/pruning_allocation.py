"""How much each layer loses: the joint allocation against uniform, global magnitude, LAMP and ERK.

    python -m benchmarks.pruning_allocation [minilm-sst2] [resnet56-cifar10] [--refit]

All methods zero the smallest weights of each layer; only the shares of the layers differ, so that the
allocation alone is compared, at the same number of zeros. With ``--refit`` what stays is fitted in closed
form for every method. Ours needs calibration samples and no labels: damage curves of single layers go to
the shared allocator; from its plans, those halfway to the rules, the rules' own and what the ratio before
came to, measured rounds (``adapass.search.allocate_rounds``) go on. The sum of the dynamic programme over
layers is noted beside the allocator's. Quality is that of all held-out samples; how far the accuracy of a
rule may be from ours by chance is noted with it (one standard error of the paired difference). Finished
rows are noted (``--state``): a stopped run goes on where it was, and plans that fewer samples judged are
judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapass.data import Dataset
from adapass.machine import fingerprint
from adapass.moments.batches import Batches, spread
from adapass.passes.prune.curves import said
from adapass.passes.sparsify.schedules import SCHEDULES
from benchmarks.harness import write_results
from benchmarks.pruning_allocation_plans import CURVE, Curves, Layers, Measuring, Shares, joint, refined
from benchmarks.trained import DATA, Doubles, Quality, Trained, is_right, outputs

NAME = "pruning_allocation"
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
EVERY = 1 << 30
"""Of held-out samples."""
FITTED = 192
MEASURED: Mapping[str, int] = {"minilm-sst2": 96, "resnet56-cifar10": 256}
"""Calibration samples that plans are measured on."""
PROBED: Mapping[str, int] = {"minilm-sst2": 32, "resnet56-cifar10": 64}
"""Of those, the ones that single changes of a plan are measured on."""
SINGLE: Mapping[str, int] = {"minilm-sst2": 48, "resnet56-cifar10": 96}
"""And those that damage curves are."""
JOINT = "joint"
ROUNDS: Mapping[str, int] = {"minilm-sst2": 3, "resnet56-cifar10": 5}

Booleans = npt.NDArray[np.bool_]


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
    held: int = 0
    """Samples it is judged on."""
    noise: float = 0.0
    """Standard error of the difference to the accuracy of ours, sample by sample."""


def rows(
    trained: Trained, *, refit: bool, known: Sequence[Row], ratios: Sequence[float] = RATIOS
) -> Iterator[Row]:
    """What is not known yet, ours first at each ratio."""
    count = MEASURED[trained.name]
    there = spread(len(trained.fit), FITTED + count)
    apart = frozenset(there[place] for place in spread(len(there), count))
    fit = trained.fit.subset([index for index in there if index not in apart]) if refit else None
    samples = trained.fit.subset(sorted(apart))
    layers = Layers.of(trained, fit)
    own = [row for row in known if (row.model, row.refit) == (trained.name, refit)]
    ours = {row.share: row for row in own if row.method == JOINT}
    done = {(row.share, row.method) for row in own if row.held == len(trained.held)}
    missing = [share for share in ratios if share not in ours]
    curves = Curves.measure(layers, _some(samples, SINGLE[trained.name])) if missing else None
    probes = _some(samples, PROBED[trained.name])
    original = said(layers.model, Batches.of(layers.model, samples, padded=True))
    measuring = Measuring(layers, samples, probes, ROUNDS[trained.name], original)
    judge = Judge(trained, layers, outputs(trained.clean, trained.held))
    before: Shares | None = None
    for share in ratios:
        if curves is not None and share in missing:
            plan, history = refined(measuring, curves, share, before)
            _, allocated, programme = joint(layers, curves, share, classes=False)
            sums = {"rounds": history, "sum, allocator": allocated, "sum, dynamic programme": programme}
            note = json.dumps({**sums, "shares": plan})
        else:
            note = ours[share].note
            plan = json.loads(note)["shares"]
        before = plan
        wanted = [method for method in (JOINT, *SCHEDULES) if (share, method) not in done]
        if not wanted:
            continue
        first, right = judge.row(plan, Row(trained.name, refit, share, JOINT, note=note), None)
        if JOINT in wanted:
            yield first
        for method, schedule in SCHEDULES.items():
            if method in wanted:
                shares = schedule(layers.weights, share)
                yield judge.row(shares, Row(trained.name, refit, share, method), right)[0]


def _some(samples: Dataset, count: int) -> Dataset:
    return samples.subset(spread(len(samples), count))


@dataclass(frozen=True, slots=True)
class Judge:
    """What plans come to on held-out samples."""

    trained: Trained
    layers: Layers
    held: Doubles
    """What the original says there."""

    def row(self, shares: Shares, row: Row, ours: Booleans | None) -> tuple[Row, Booleans]:
        """The row with its numbers, and which samples are right; ``ours``: which are under our plan."""
        samples = self.trained.held
        output = outputs(self.layers.built(shares), samples)
        found = Quality.of(self.held, output, samples)
        right = is_right(output, samples)
        sizes = {name: int(array.size) for name, array in self.layers.weights.items()}
        full = replace(
            row,
            distortion=found.damage.distortion,
            divergence=found.damage.divergence or 0.0,
            accuracy=found.accuracy,
            zeros=sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values()),
            held=len(samples),
            noise=0.0 if ours is None else paired_error(ours, right),
        )
        return full, right


def paired_error(one: Booleans, other: Booleans) -> float:
    """Standard error of the difference of two shares of right answers on the same samples."""
    return float(np.std(one.astype(np.float64) - other) / np.sqrt(len(one)))


def table(found: Sequence[Row]) -> str:
    """By model, ratio and method: divergence (the best starred), distortion, accuracy (and its noise)."""
    methods = [JOINT, *SCHEDULES]
    lines: list[str] = []
    for model, refit in dict.fromkeys((row.model, row.refit) for row in found):
        own = {(row.share, row.method): row for row in found if (row.model, row.refit) == (model, refit)}
        lines.append(f"{model}, {'what stays fitted in closed form' if refit else 'zeros alone'}")
        lines.append(f"{'zeros':<8}" + "".join(f"{method:>34}" for method in methods))
        for share in dict.fromkeys(share for share, _ in own):
            line = [own[share, method] for method in methods if (share, method) in own]
            least = min(row.divergence for row in line)
            cells = [
                f"{row.divergence:>11.4f}{'*' if row.divergence == least else ' '}"
                f"{row.distortion:>7.3f}{100 * row.accuracy:>7.2f}"
                + (f" ({100 * row.noise:.2f})" if row.method != JOINT else "")
                for row in line
            ]
            lines.append(f"{share:<8}" + "".join(f"{cell:>34}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def known_rows(file: Path) -> list[Row]:
    if not file.exists():
        return []
    entries = [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    latest = {(row.model, row.refit, row.share, row.method): row for row in entries}
    return list(latest.values())


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
        trained = Trained.load(name, EVERY)
        for row in rows(trained, refit=given.refit, known=known_rows(state), ratios=given.ratios):
            with state.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    report(known_rows(state))
    return 0


def report(found: Sequence[Row]) -> None:
    """Write the results, with what they were taken with."""
    ordered = sorted(found, key=lambda row: (row.model, row.refit, row.share))
    machine = fingerprint(1)
    held = {row.model: row.held for row in ordered}
    heading = (
        f"{NAME}: divergence, distortion and accuracy (%) on held-out samples; * least divergence; in "
        "brackets one standard error of the difference to the accuracy of ours, sample by sample\n"
        + "".join(
            f"{name}: held out {count}, curves from {SINGLE[name]} calibration samples at shares "
            f"{', '.join(map(str, CURVE))}, plans from {MEASURED[name]}, changes from {PROBED[name]}, "
            f"fits from {FITTED}\n"
            for name, count in held.items()
        )
        + f"machine {machine.processor}, {machine.cores} cores"
    )
    result = {"rows": [asdict(row) for row in ordered], "machine": machine.key}
    write_results(NAME, result, f"{heading}\n\n{table(ordered)}")


if __name__ == "__main__":
    sys.exit(main())
