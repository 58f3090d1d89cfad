"""Formats chosen layer by layer against one format everywhere, at equal size and at equal measured latency.

    python -m benchmarks.mixed_precision size [minilm-sst2] [resnet56-cifar10]
    python -m benchmarks.mixed_precision latency [minilm-sst2] [resnet56-cifar10]

size      every format of ``quantize-weights`` for all weights; then the least predicted damage in at most as
          many bytes, by the allocator, among all formats. No clock is involved.
latency   every setting of ``quantize-8bit`` and ``quantize-weights`` for all products; then the least
          predicted damage that saves at least as much, by the latency tables of the search, and both timed in
          turns. Where the mixture comes out slower, it is planned again for a larger saving, three times at
          most. Needs an idle machine.

Predictions see fit data. What is compared (divergence from the float model's class probabilities, changed
classes) is measured on held-out samples, on models as they ship, executed by ONNX Runtime.
Writes benchmarks/results/mixed_precision_KIND.{json,txt}.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice
from adapass.cli.progress import shown_progress
from adapass.cost.measure import interleaved
from adapass.data import Dataset, load_data
from adapass.defaults import CLEAN
from adapass.driver.choosing import trials_of
from adapass.driver.optimize import open_context
from adapass.driver.request import Request
from adapass.errors import BudgetError
from adapass.facts import FactCache
from adapass.generator import Runner
from adapass.graph.load import load_model
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.pipeline import Pipeline
from adapass.registry import generator
from adapass.search.allocate import minimize_damage
from adapass.search.allocate_problem import Option, Problem
from adapass.search.candidates import Search
from adapass.search.damage import damages, divergence_of
from adapass.search.evaluations import offered
from adapass.search.joint import Chosen, JointProblem, Rates, plan_of
from adapass.search.judge import predict, spread_indices
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.statics import StaticOption
from adapass.target import load_target
from adapass.text_form import parse_pass
from benchmarks.harness import shared_folder, write_results

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
THREADS = 2
HELD_OUT = 512
UNIFORM = ("int8", "int4-g32", "int4-g128", "int2-g32")
"""Formats that are tried for all weights."""
SMALLER = ("int2-g128",)
"""Offered to mixtures as well, so that the smallest uniform format has something to trade."""
FAMILIES = 'quantize-8bit, quantize-weights{settings=["int8", "int4-g32", "int4-g128"]}'
FIT_SAMPLES = 512
DAMAGE_SAMPLES = 64
RETRIES = 3
CLOSE = 1.01
"""A mixture within this of the uniform one's latency counts as equally fast."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model of one kind beside the mixture that may be as large, or as slow."""

    what: str
    cost: float
    """Bytes of stored tensors, or milliseconds."""
    share: float
    """Of the float model's."""
    divergence: float
    """Mean, in nats."""
    changed: float
    """Share of held-out samples with another class."""
    plan: str = ""


def parts_of(name: str) -> tuple[ir.Model, Dataset, Dataset]:
    """The clean model, fit data and held-out samples."""
    shared = shared_folder()
    model = load_model(shared / "models" / f"{name}.onnx")
    fit, held_out = (
        load_data(shared / "data" / f"{DATA[name]}_{part}.npz", model) for part in ("fit", "eval")
    )
    clean = Pipeline(parse_pass(step) for step in CLEAN).run(model, data=fit, seed=0).model
    return clean, few(fit, FIT_SAMPLES), few(held_out, HELD_OUT)


def few(data: Dataset, count: int) -> Dataset:
    return data.subset(list(spread_indices(len(data), count)))


@dataclass(frozen=True)
class Quality:
    """What models do to the classes of held-out samples."""

    samples: Dataset
    reference: Array

    @classmethod
    def of(cls, clean: ir.Model, samples: Dataset) -> Quality:
        return cls(samples, predict(clean, samples, threads=THREADS))

    def row(self, what: str, model: ir.Model, cost: float, whole: float, plan: str = "") -> Row:
        rows = predict(model, self.samples, threads=THREADS)
        changed = float((rows.argmax(1) != self.reference.argmax(1)).astype(np.float64).mean())
        row = Row(what, cost, cost / whole, divergence_of(self.reference, rows), changed, plan)
        sys.stderr.write(f"  {_line(row)}\n")
        return row


def by_size(name: str) -> list[Row]:
    """Pairs of rows: one format everywhere, and the mixture of at most its size."""
    clean, fit, held_out = parts_of(name)
    step = parse_pass(f"quantize-weights{{settings=[{', '.join(map(_quoted, (*UNIFORM, *SMALLER)))}]}}")
    assert isinstance(step, BudgetedPass)
    choices = offered(step, clean)
    damage = damages(clean, step, choices, fit=fit, samples=few(fit, DAMAGE_SAMPLES))
    whole = tensor_bytes(clean)
    change = {choice.key: float(_size(clean, step, choice) - whole) for choice in choices}
    problem = Problem(
        tuple(
            Option(c.key, c.site, 0.0, damage[c.key].additive(classes=True), {"bytes": change[c.key]})
            for c in choices
        )
    )
    quality = Quality.of(clean, held_out)
    rows: list[Row] = []
    for setting in UNIFORM:
        own = tuple(choice for choice in choices if choice.setting == setting)
        model = apply_plan(clean, Plan((Part(step, own),)), fit=fit, verify=False)
        size = float(tensor_bytes(model))
        rows.append(quality.row(f"{setting} everywhere", model, size, whole))
        taken = minimize_damage(problem, min_saving=-np.inf, limits={"bytes": size - whole}).chosen
        mixed = tuple(choice for choice in choices if choice.key in taken)
        model = apply_plan(clean, Plan((Part(step, mixed),)), fit=fit, verify=False)
        made = _counted([choice.setting for choice in mixed])
        rows.append(quality.row("mixed", model, float(tensor_bytes(model)), whole, made))
    return rows


def _size(clean: ir.Model, step: BudgetedPass, choice: Choice) -> int:
    """Bytes of stored tensors with one choice made."""
    model = clone(clean)
    step.apply(model, FactCache(model), [choice])
    return tensor_bytes(model)


def by_latency(name: str, scratch: Path) -> list[Row]:
    """Pairs of rows: one setting everywhere, and the mixture that is as fast."""
    shared = shared_folder()
    file = shared / "models" / f"{name}.onnx"
    fit, held_out = (shared / "data" / f"{DATA[name]}_{part}.npz" for part in ("fit", "eval"))
    request = Request(
        threads=THREADS,
        backend="onnxruntime",
        passes=", ".join([*CLEAN, FAMILIES]),
        output=scratch / "out.adapass",
    )
    with (
        shown_progress(0) as progress,
        open_context(file, request, fit, held_out, scratch, progress) as context,
    ):
        parts = context.material.parts
        assert parts is not None
        trials = trials_of(context, parts, context.judge("search", parts.search))
        search = Search(trials, context.families, request.effort.rounds, progress)
        trials.clean()
        trials.predictor.anchor(context.clean)
        race = _Race(
            context.clean,
            few(parts.fit, FIT_SAMPLES),
            search.priced(),
            context.feeds(2),
            scratch,
            search.classes,
        )
        quality = Quality.of(context.clean, few(parts.certify, HELD_OUT))
        return [row for setting in race.settings() for row in race.pair(setting, quality)]


@dataclass(frozen=True)
class _Race:
    """Builds plans and times two of them, and the float model, in turns."""

    clean: ir.Model
    fit: Dataset
    options: tuple[StaticOption, ...]
    feeds: Sequence[Mapping[str, Array]]
    scratch: Path
    classes: bool

    def settings(self) -> list[tuple[str, list[StaticOption]]]:
        """One setting everywhere, by name."""
        found: dict[str, list[StaticOption]] = {}
        for option in self.options:
            found.setdefault(f"{option.step.name} {option.choice.setting}", []).append(option)
        return list(found.items())

    def pair(self, uniform: tuple[str, list[StaticOption]], quality: Quality) -> list[Row]:
        name, own = uniform
        problem = JointProblem(self.options, (), Rates(1.0), self.classes)
        first, wanted = self._model(own), sum(option.saving for option in own)
        for left in range(RETRIES, -1, -1):
            chosen = _safest(problem, wanted)
            second = self._model(chosen.statics)
            whole, alone, mixed = self._timed(self.clean, first, second)
            if mixed <= CLOSE * alone or not left:
                made = _counted([f"{o.step.name} {o.choice.setting}" for o in chosen.statics])
                return [
                    quality.row(f"{name} everywhere", first, 1e3 * alone, 1e3 * whole),
                    quality.row("mixed", second, 1e3 * mixed, 1e3 * whole, made),
                ]
            wanted = chosen.saving + (mixed - alone)
        raise AssertionError("the last round returns")

    def _model(self, statics: Sequence[StaticOption]) -> ir.Model:
        return apply_plan(self.clean, plan_of(statics, None), fit=self.fit, verify=False)

    def _timed(self, *models: ir.Model) -> list[float]:
        """Mean seconds of each in its fastest variant, all of them in turns."""
        backend, target = generator("onnxruntime"), load_target("cpu")
        opened: dict[tuple[int, str], Runner] = {}
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            for index, model in enumerate(models):
                for variant in backend.variants(model, target, threads=THREADS, batch=1):
                    place = Path(folder) / f"{index}-{variant.name}"
                    place.mkdir()
                    backend.build(model, target, place, variant.options)
                    opened[index, variant.name] = backend.load(place, threads=THREADS)
            names = {f"{index} {variant}": runner for (index, variant), runner in opened.items()}
            try:
                timed = interleaved(
                    {name: runner.run for name, runner in names.items()}, self.feeds, rounds=8, warmup=2
                )
            finally:
                for runner in opened.values():
                    runner.close()
        return [
            min(timing.mean for name, timing in timed.items() if name.startswith(f"{index} "))
            for index in range(len(models))
        ]


def _safest(problem: JointProblem, saving: float) -> Chosen:
    """The least damage at this saving, or at the largest there is."""
    try:
        return problem.safest(saving)
    except BudgetError:
        return problem.safest(problem.fastest(float("inf")).saving * (1.0 - 1e-9))


def _quoted(text: str) -> str:
    return f'"{text}"'


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))


def _line(row: Row) -> str:
    return (
        f"{row.what:34} {row.cost:12.3f} {row.share:6.3f}x  divergence {row.divergence:9.2e}  "
        f"changed {100 * row.changed:5.2f} %  {row.plan}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed against uniform precision.")
    parser.add_argument("kind", choices=["size", "latency"])
    parser.add_argument("models", nargs="*", default=list(DATA))
    given = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for name in given.models:
        sys.stderr.write(f"{name}\n")
        with tempfile.TemporaryDirectory() as folder:
            found[name] = by_size(name) if given.kind == "size" else by_latency(name, Path(folder))
    unit = "bytes" if given.kind == "size" else "milliseconds"
    document = {
        "machine": fingerprint(THREADS).to_json(),
        "unit": unit,
        "held_out": HELD_OUT,
        "models": {name: [asdict(row) for row in rows] for name, rows in found.items()},
    }
    blocks = ["\n".join([f"{name} ({unit})", *map(_line, rows)]) for name, rows in found.items()]
    write_results(f"mixed_precision_{given.kind}", document, "\n\n".join(blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
