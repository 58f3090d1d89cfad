"""Feed-forward parts that tokens go around: share left out against quality, by who tells which tokens.

    python -m benchmarks.ffn_skipping [minilm-agnews] [minilm-sst2] [vit-cifar10] [--samples 256]

Curves leave out the same share at every part: by the true contribution (oracle), by the learned score, and by
saturation. Plans are what a search would do: each part gets the largest share whose damage alone, on
samples that scores and thresholds are fitted on, is below a bound; the fitted model is then judged on
evaluation samples. Quality only: nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from adapass.data import Dataset, load_data
from adapass.driver.clean import split_passes
from adapass.driver.request import Request
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.moments.batches import Batches, feed_names, spread
from adapass.passes.gates.curves import Curve, Sign, agreement, skipping_curves
from adapass.passes.gates.row_branches import find_row_branches
from adapass.passes.gates.skip_feed_forward import PREFIX, SkipFeedForward
from adapass.search.damage import damage_of
from benchmarks.harness import shared_folder, write_results
from benchmarks.trained import Doubles, accuracy

NAME = "ffn_skipping"
DATA: Mapping[str, str] = {"minilm-agnews": "agnews", "minilm-sst2": "sst2", "vit-cifar10": "cifar10"}
FRACTIONS = (0.25, 0.5, 0.75)
BOUNDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Nats that each part may cost alone."""
CHOSEN_ON = 96
BATCH = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    model: str
    way: str
    skipped: float
    """Share of tokens times parts that went around; parts of one position do not count."""
    divergence: float
    agreement: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A clean model and its data."""

    name: str
    clean: ir.Model
    fit: Dataset
    held: Dataset
    reference: Doubles

    @classmethod
    def load(cls, name: str, held: int) -> Subject:
        folder = shared_folder()
        model = load_model(folder / "models" / f"{name}.onnx")
        fit, evaluation = (
            load_data(folder / "data" / f"{DATA[name]}_{part}.npz", model) for part in ("fit", "eval")
        )
        clean = split_passes(Request())[0].run(model).model
        some = evaluation.subset(spread(len(evaluation), held))
        return cls(name, clean, fit, some, _results(clean, some)[0])

    def curves(self) -> list[Row]:
        """Equal shares everywhere, nothing put in the place of what is left out."""
        found = skipping_curves(
            self.clean, FactCache(self.clean), self.fit, self.held, fractions=FRACTIONS, apart=False
        )
        return [
            Row(
                self.name,
                curve.sign.value,
                point.skipped,
                point.damage.additive(classes=True),
                point.agreement or 0.0,
                float("nan"),
            )
            for curve in found
            for point in curve.points
        ]

    def plan(self, way: str, settings: Mapping[str, str]) -> Row:
        """The pass at these settings, fitted, on the held-out samples."""
        step = SkipFeedForward()
        changed = clone(self.clean)
        choices = [
            choice
            for choice in step.propose(self.clean, FactCache(self.clean)).choices
            if settings.get(choice.site) == choice.setting
        ]
        if choices:
            step.apply(changed, FactCache(changed), choices)
            step.fit_to(changed, self.fit, self.clean)
        results, live = _results(changed, self.held)
        rows = find_row_branches(self.clean, FactCache(self.clean))[0]
        tokens = rows[0].tokens
        lengths = self.held.lengths
        real = int(lengths.sum()) if lengths is not None else (tokens or 0) * len(self.held)
        gone = real * len(choices) - live
        return Row(
            self.name,
            way,
            gone / (real * len(rows)),
            damage_of(self.reference, results).additive(classes=True),
            agreement(self.reference, results) or 0.0,
            accuracy(results, self.held),
        )

    def plans(self) -> list[Row]:
        step = SkipFeedForward()
        some = self.fit.subset(spread(len(self.fit), CHOSEN_ON))
        fractions = tuple(int(setting.removeprefix(PREFIX)) / 100 for setting in step.settings)
        curves = skipping_curves(
            self.clean,
            FactCache(self.clean),
            self.fit,
            some,
            signs=[Sign.LEARNED],
            fractions=fractions,
            together=False,
        )
        everywhere = {curve.site: f"{PREFIX}25" for curve in curves if curve.site is not None}
        return [
            Row(self.name, "unchanged", 0.0, 0.0, 1.0, accuracy(self.reference, self.held)),
            self.plan("pass, 25 % everywhere", everywhere),
            *(
                self.plan(f"pass, at most {bound:g} each", chosen(curves, step.settings, bound))
                for bound in BOUNDS
            ),
        ]


def chosen(curves: Sequence[Curve], settings: Sequence[str], bound: float) -> dict[str, str]:
    """For each part the largest share that alone stays below ``bound``."""
    found: dict[str, str] = {}
    for curve in curves:
        for point, setting in zip(curve.points, settings, strict=True):
            if curve.site is not None and point.damage.additive(classes=True) <= bound:
                found[curve.site] = setting
    return found


def _results(model: ir.Model, samples: Dataset) -> tuple[Doubles, int]:
    """The first output in order, and how many rows went through gated parts."""
    name = model.graph.outputs[0].name or ""
    rows = [node.outputs[0].name or "" for node in model.graph if node.op_type == "LiveRows"]
    session = Session(model, outputs=[name, *rows], optimize=True)
    results: list[Doubles] = []
    order: list[int] = []
    live = 0
    for selection, feeds in Batches.of(model, samples, size=BATCH, padded=True):
        found = session.run(feed_names(model, feeds))
        results.append(found[name].astype(np.float64))
        live += sum(found[row].size for row in rows)
        order += selection.indices
    return np.concatenate(results)[np.argsort(order, kind="stable")], live


def table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'model':<16}{'who tells':<28}{'skipped':>9}{'divergence':>12}{'agreement':>11}{'accuracy':>10}"
    ]
    for row in rows:
        told = "" if np.isnan(row.accuracy) else f"{100 * row.accuracy:.2f}"
        lines.append(
            f"{row.model:<16}{row.way:<28}{100 * row.skipped:>8.1f}%{row.divergence:>12.5f}"
            f"{100 * row.agreement:>11.2f}{told:>10}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Share of feed-forward work left out against quality.")
    parser.add_argument("models", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--samples", type=int, default=256, help="held-out samples")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for name in given.models:
        started = time.monotonic()
        subject = Subject.load(name, given.samples)
        rows += subject.plans()
        rows += subject.curves()
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n{table(rows)}\n")
    machine = fingerprint(1)
    heading = (
        f"{NAME}: tokens that go around feed-forward parts, {given.samples} held-out samples\n"
        f"machine {machine.processor}"
    )
    document = {
        "rows": [
            {
                key: None if isinstance(value, float) and np.isnan(value) else value
                for key, value in asdict(row).items()
            }
            for row in rows
        ],
        "samples": given.samples,
        "machine": machine.key,
    }
    write_results(NAME, document, f"{heading}\n\n{table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
