"""Formats chosen layer by layer against one format everywhere, at equal size and at equal measured latency.

    python -m benchmarks.mixed_precision size [minilm-sst2] [resnet56-cifar10]
    python -m benchmarks.mixed_precision latency [minilm-sst2] [resnet56-cifar10]

size      every format of ``quantize-weights`` for all weights; then the least damage in at most as many bytes
          among all formats: the allocator's plan from single damages, then measured rounds, as in the search
          where a size is asked for. No clock is involved.
latency   every setting of ``quantize-8bit`` and ``quantize-weights`` for all products; then the least
          predicted damage that saves at least as much, by the latency tables of the search, and both timed in
          turns. Where the mixture comes out slower, it is planned again for a larger saving, three times at
          most. Needs an idle machine.

Predictions see fit data. What is compared (divergence from the float model's class probabilities, changed
classes) is measured on held-out samples, on models as they ship, executed by ONNX Runtime. "Less" is by how
much the mixture's divergence is smaller, sample by sample, with its 95 % interval.
Writes benchmarks/results/mixed_precision_KIND.{json,txt}; rows of models not named stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

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
from adapass.passes.quantize.weight_only.formats import Format
from adapass.pipeline import Pipeline
from adapass.registry import generator
from adapass.search.allocate_problem import Option
from adapass.search.candidates import Search
from adapass.search.damage import divergence_of, divergences
from adapass.search.evaluations import offered
from adapass.search.joint import Chosen, JointProblem, Rates, plan_of
from adapass.search.judge import predict, spread_indices
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.sized import BYTES, settled
from adapass.search.statics import StaticOption
from adapass.target import load_target
from adapass.text_form import parse_pass
from benchmarks.harness import RESULTS, shared_folder, write_results

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
THREADS = 2
HELD_OUT = {"size": 1000, "latency": 512}
UNIFORM = ("int8", "int4-g32", "int4-g128", "int2-g32")
"""Formats that are tried for all weights."""
BETWEEN = ("float16", "int8-g128", "int2-g128")
"""Offered to mixtures as well, so that every uniform format has something to trade."""
MEASURED = 384
"""Fit samples of which measured rounds round by a half, and judge plans and exchanges on a quarter each."""
FAMILIES = 'quantize-8bit, quantize-weights{settings=["int8", "int4-g32", "int4-g128"]}'
FIT_SAMPLES = 512
NORMAL = 1.96
ROUNDS = 1
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
    less: float | None = None
    """By how much the divergence is less than that of the row before; ``None``: not compared."""
    sure: float = 0.0
    """Half of the 95 % interval of that."""


def parts_of(name: str) -> tuple[ir.Model, Dataset, Dataset]:
    """The clean model, all fit data and held-out samples."""
    shared = shared_folder()
    model = load_model(shared / "models" / f"{name}.onnx")
    fit, held_out = (
        load_data(shared / "data" / f"{DATA[name]}_{part}.npz", model) for part in ("fit", "eval")
    )
    clean = Pipeline(parse_pass(step) for step in CLEAN).run(model, data=fit, seed=0).model
    return clean, fit, few(held_out, HELD_OUT["size"])


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

    def said(self, model: ir.Model) -> Array:
        return predict(model, self.samples, threads=THREADS)

    def row(
        self,
        what: str,
        said: Array,
        cost: float,
        whole: float,
        plan: str = "",
        *,
        than: Array | None = None,
    ) -> Row:
        changed = float((said.argmax(1) != self.reference.argmax(1)).astype(np.float64).mean())
        row = Row(what, cost, cost / whole, divergence_of(self.reference, said), changed, plan)
        if than is not None:
            less, sure = self._less(said, than)
            row = replace(row, less=less, sure=sure)
        sys.stderr.write(f"  {_line(row)}\n")
        return row

    def _less(self, said: Array, than: Array) -> tuple[float, float]:
        """How much less divergence, paired by sample, and half of its 95 % interval."""
        less = divergences(self.reference, than) - divergences(self.reference, said)
        return float(less.mean()), float(NORMAL * less.std() / np.sqrt(len(less)))


def by_size(name: str) -> list[Row]:
    """Pairs of rows: one format everywhere, and the mixture of at most its size."""
    clean, fit, held_out = parts_of(name)
    settings = ", ".join(map(_quoted, (*UNIFORM, *BETWEEN)))
    step = parse_pass(f"quantize-weights{{settings=[{settings}] min-elements=1}}")  # everywhere is everywhere
    assert isinstance(step, BudgetedPass)
    choices = offered(step, clean)
    together = step.together(clean, FactCache(clean), choices, few(fit, MEASURED))
    assert together is not None  # the family can
    alone = together.beside((), [(choice.site, choice) for choice in choices])
    whole = tensor_bytes(clean)
    changes = _changes(clean, step, choices)
    options = [
        Option(
            choice.key,
            choice.site,
            0.0,
            damage.additive(classes=True),
            {BYTES: changes[choice.key]},
        )
        for choice, damage in zip(choices, alone, strict=True)
    ]
    sys.stderr.write(f"  {len(choices)} choices measured alone\n")
    quality, fit = Quality.of(clean, held_out), few(fit, FIT_SAMPLES)
    rows: list[Row] = []
    for setting in UNIFORM:
        own = tuple(choice for choice in choices if choice.setting == setting)
        first = apply_plan(clean, Plan((Part(step, own),)), fit=fit, verify=False)
        size = float(tensor_bytes(first))
        before = quality.said(first)
        rows.append(quality.row(f"{setting} everywhere", before, size, whole))
        limit = sum(changes[choice.key] for choice in own)
        found = settled(options, choices, limit, together, classes=True, rounds=ROUNDS)
        sys.stderr.write(f"  measured, round by round: {', '.join(f'{x:.3g}' for x in found.history)}\n")
        mixed = tuple(choice for choice in choices if choice.key in found.chosen)
        second = apply_plan(clean, Plan((Part(step, mixed),)), fit=fit, verify=False)
        made = _counted([choice.setting for choice in mixed])
        size = float(tensor_bytes(second))
        rows.append(quality.row("mixed", quality.said(second), size, whole, made, than=before))
    return rows


def _changes(clean: ir.Model, step: BudgetedPass, choices: Sequence[Choice]) -> dict[str, float]:
    """Of stored bytes, by each choice: one of a site made, the others by the bits of their formats."""
    found: dict[str, float] = {}
    beside: dict[str, int] = {}
    for choice in choices:
        inputs, outputs = cast("Sequence[int]", choice.detail["weight_shape"])
        format_ = Format.parse(choice.setting)
        if choice.detail["operator"] == "Conv":
            format_ = format_.for_convolution(inputs)
        stored = round(inputs * outputs * format_.stored_bits(inputs, outputs, symmetric=False) / 8.0)
        if choice.site not in beside:
            model = clone(clean)
            step.apply(model, FactCache(model), [choice])
            beside[choice.site] = tensor_bytes(model) - tensor_bytes(clean) - stored
        found[choice.key] = float(stored + beside[choice.site])
    return found


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
        quality = Quality.of(context.clean, few(parts.certify, HELD_OUT["latency"]))
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
                said = [quality.said(model) for model in (first, second)]
                return [
                    quality.row(f"{name} everywhere", said[0], 1e3 * alone, 1e3 * whole),
                    quality.row("mixed", said[1], 1e3 * mixed, 1e3 * whole, made, than=said[0]),
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
    less = "" if row.less is None else f"less {row.less:9.2e} +- {row.sure:.1e}  "
    return (
        f"{row.what:34} {row.cost:12.3f} {row.share:6.3f}x  divergence {row.divergence:9.2e}  "
        f"changed {100 * row.changed:5.2f} %  {less}{row.plan}"
    )


def noted(kind: str) -> dict[str, list[Row]]:
    """Rows of earlier runs, by model."""
    file = RESULTS / f"mixed_precision_{kind}.json"
    if not file.exists():
        return {}
    document = json.loads(file.read_text(encoding="utf-8"))
    return {name: [Row(**row) for row in rows] for name, rows in document["models"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed against uniform precision.")
    parser.add_argument("kind", choices=["size", "latency"])
    parser.add_argument("models", nargs="*", default=list(DATA))
    given = parser.parse_args()
    found = noted(given.kind)
    for name in given.models:
        sys.stderr.write(f"{name}\n")
        with tempfile.TemporaryDirectory() as folder:
            found[name] = by_size(name) if given.kind == "size" else by_latency(name, Path(folder))
    unit = "bytes" if given.kind == "size" else "milliseconds"
    document = {
        "machine": fingerprint(THREADS).to_json(),
        "unit": unit,
        "held_out": HELD_OUT[given.kind],
        "models": {name: [asdict(row) for row in rows] for name, rows in found.items()},
    }
    blocks = ["\n".join([f"{name} ({unit})", *map(_line, rows)]) for name, rows in found.items()]
    write_results(f"mixed_precision_{given.kind}", document, "\n\n".join(blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
