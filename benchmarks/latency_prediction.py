"""Predicted against measured latency of rewritten models: exits x width x precision x batch.

    python -m benchmarks.latency_prediction [--model minilm-sst2] [--configurations 11] [--threads 1]

First the pieces of some uniformly rewritten models are measured (widths 100, 88, 75, 56, 50 and 25 %), and
two whole models without exits per batch size (float, 8-bit; by half too). Then, for configurations none of
which was ever run, latency is predicted; only after that each one is built through the generator and measured
in turns with others. Pieces with 62 or 37 % of their channels or neurons are never measured, only
interpolated. Reach comes from a trace on other samples than those timed. Plain MACs get the best factor that
can be fitted to the very configurations they are judged on.

Machines drift between the minute of the prediction and that of the measurement, and the samples timed are not
those the pieces saw: the clean model runs beside every configuration, and errors are those of the ratio to it
(what a user is told is a ratio as well). The raw errors are printed beside them.

Writes benchmarks/results/latency_prediction.{json,txt}. Needs an idle machine for some 14 minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import Feeds
from adapass.cache import FOLDER_VARIABLE, Cache
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.cost.bench import Settings
from adapass.cost.estimate import Estimate
from adapass.cost.measure import interleaved
from adapass.cost.model import Trust
from adapass.cost.pieces import Piece, lay_out
from adapass.cost.predict import Exits, Predictor
from adapass.cost.table import RegionTable
from adapass.data import Dataset, load_data
from adapass.defaults import CLEAN
from adapass.facts import FactCache
from adapass.generator import Runner, Variant
from adapass.graph.load import load_model
from adapass.graph.shapes import infer_shapes
from adapass.machine import fingerprint
from adapass.pipeline import Pipeline
from adapass.search.stopwatch import Stopwatch
from adapass.target import load_target
from adapass.text_form import parse_pass
from benchmarks.harness import heading, shared_folder, write_results
from benchmarks.latency_models import Setup, rewritten, traced, widths_for
from benchmarks.latency_scores import Result, report, scores

NAME = "latency_prediction"
DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
BATCHES = (1, 8, 32)
HELD_OUT = (62, 37)
SURVEY = (
    *((width, precision) for precision in ("float", "8bit") for width in (100, 88, 75, 56, 50, 25)),
    *((width, precision) for precision in ("half", "second") for width in (100, 75, 50, 25)),
)
ANCHORS = ((100, "float"), (100, "8bit"))
"""Measured whole, and by half."""
SETUPS = (
    Setup(0, "62", "float"),
    Setup(0, "37", "8bit"),
    Setup(0, "mixed", "float"),
    Setup(0, "mixed", "half"),
    Setup(0, "100", "second"),
    Setup(2, "100", "float", leave=0.4),
    Setup(2, "mixed", "8bit", leave=0.25, staged=True),
    Setup(2, "62", "half", leave=0.6),
    Setup(5, "100", "8bit", leave=0.2),
    Setup(5, "mixed", "float", leave=0.3, staged=True),
    Setup(5, "37", "second", leave=0.1),
)
CLEAN_MODEL = "clean"
MEASURING_SECONDS = 0.3
TRACED = 384
TIMED = {1: 256, 8: 24, 32: 6}
"""Batches that configurations are timed on."""
FIT = 96
ROUNDS = 5
GROUP = 4
"""Configurations that are timed in turns."""
FEEDS = {1: 16, 8: 5, 32: 3}


@dataclass(frozen=True)
class Bench:
    """One model and what is needed to rewrite, price and time it."""

    name: str
    clean: ir.Model
    fit: Dataset
    trace: Dataset
    timed: Dataset
    predictor: Predictor
    held_out: frozenset[tuple[int, ...]]
    """Shapes of second weights with held-out widths."""

    def variants(self, model: ir.Model) -> Sequence[Variant]:
        watch = self.predictor.watch
        return watch.generator.variants(model, watch.target, threads=watch.threads, batch=1)


def open_bench(name: str, threads: int, cache: Cache) -> Bench:
    """Load and clean a model; split its data; a predictor that knows nothing yet."""
    shared = shared_folder()
    clean = load_model(shared / "models" / f"{name}.onnx")
    fit, held = (load_data(shared / "data" / f"{DATA[name]}_{part}.npz", clean) for part in ("fit", "eval"))
    Pipeline([parse_pass(text) for text in CLEAN]).run(clean)
    infer_shapes(clean)
    trace, timed = held.subset(range(0, len(held), 2)), held.subset(range(1, len(held), 2))
    generator, target = OnnxRuntime(), load_target("cpu")
    table = RegionTable(cache, max_seconds=MEASURING_SECONDS)
    watch = Stopwatch(generator, target, threads, spread_feeds(trace, 1), table, fingerprint(threads).key)
    options = generator.variants(clean, target, threads=threads, batch=1)[0].options
    held_out = frozenset(shape for width in HELD_OUT for shape in widths_for(clean, width))
    predictor = Predictor(
        watch,
        options,
        feeds_of=lambda batch: spread_feeds(trace, batch),
        may_measure=lambda piece: not is_held_out(piece, held_out),
    )
    return Bench(name, clean, fit.subset(range(FIT)), trace, timed, predictor, held_out)


def spread_feeds(samples: Dataset, batch: int, wanted: int | None = None) -> list[Feeds]:
    """Batches that stand for all: of many, those at even places in the order of their lengths."""
    count = len(samples) // batch
    wanted = min(FEEDS[batch] if wanted is None else wanted, count)
    every = [samples.batch(range(start * batch, (start + 1) * batch)) for start in range(count)]
    order = sorted(range(count), key=lambda index: sum(array.size for array in every[index].values()))
    places = (np.arange(wanted) + 0.5) / wanted * count
    return [every[order[int(place)]] for place in places]


def is_held_out(piece: Piece, shapes: frozenset[tuple[int, ...]]) -> bool:
    """Whether the piece has a second weight of a held-out width."""
    sizes = piece.sizes
    return any(sizes[place : place + len(shape)] == shape for shape in shapes for place in range(len(sizes)))


def survey(bench: Bench) -> int:
    """Measure the pieces of narrowed models, and the clean and the 8-bit one whole; says how many pieces."""
    predictor = bench.predictor
    predictor.tolerance = 0.0
    for width, precision in SURVEY:
        model = rewritten(bench.clean, Setup(0, str(width), precision), bench.fit, seed=0)
        for batch in BATCHES:
            predictor.estimate(model, batch=batch)
            if (width, precision) in ANCHORS:
                predictor.anchor(model, batch=batch)
        say(f"{bench.name}: pieces at {width} % {precision}")
    predictor.tolerance = 1.0
    known = (predictor.prices(batch).measured.values() for batch in BATCHES)
    return sum(len(each) for each in known)


def predict_and_time(bench: Bench, setups: Sequence[Setup]) -> list[Result]:
    """Fix all predictions, then measure."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folders: list[Path] = []
        for seed, setup in enumerate(setups):
            folder = Path(name, str(seed))
            folder.mkdir()
            results += predicted(bench, setup, seed, folder)
            folders.append(folder)
        then = {batch: bench.predictor.estimate(bench.clean, batch=batch).seconds for batch in BATCHES}
        clean = Path(name, CLEAN_MODEL)
        clean.mkdir()
        watch = bench.predictor.watch
        watch.generator.build(bench.clean, watch.target, clean, bench.predictor.options)
        say(f"{bench.name}: all predicted")
        seconds: dict[tuple[int, str], tuple[float, float]] = {}
        for batch in BATCHES:
            for start in range(0, len(folders), GROUP):
                found = timed(bench, batch, [clean, *folders[start : start + GROUP]])
                drift = found[CLEAN_MODEL] / then[batch]
                seconds.update(((batch, key), (value, drift)) for key, value in found.items())
            say(f"{bench.name}: batch {batch} measured")
    return [result.measured(*seconds[result.batch, result.seed]) for result in results]


def predicted(bench: Bench, setup: Setup, seed: int, folder: Path) -> list[Result]:
    """Rewrite, predict at all batch sizes, and build (without running) one configuration."""
    model = rewritten(bench.clean, setup, bench.fit, seed=seed)
    taken = traced(model, bench.trace.subset(range(TRACED)), setup.leave) if setup.exits else None
    variants = bench.variants(model)
    staged = [variant for variant in variants if variant.options.get("lowering") == "staged"]
    options = (staged[0] if setup.staged and staged else variants[0]).options
    bench.predictor.exit_options = options if setup.exits else None
    watch = bench.predictor.watch
    watch.generator.build(model, watch.target, folder, options)
    return [one_prediction(bench, model, setup, str(seed), taken, batch) for batch in BATCHES]


def one_prediction(
    bench: Bench, model: ir.Model, setup: Setup, seed: str, taken: Exits | None, batch: int
) -> Result:
    """What is known before anything runs."""
    bench.predictor.estimate(model, taken=taken, batch=batch)  # measures pieces no other model had
    started = time.perf_counter()
    estimate = bench.predictor.estimate(model, taken=taken, batch=batch)
    seconds = time.perf_counter() - started
    return Result(
        model=bench.name,
        batch=batch,
        seed=seed,
        setup=str(setup),
        precision=setup.precision,
        predicted=estimate.seconds,
        low=estimate.low,
        high=estimate.high,
        flops=flops_of(bench, model, taken, batch),
        measured_share=measured_share(estimate),
        seconds_to_predict=seconds,
        depth=None if taken is None else float(np.mean(taken)) / setup.exits,
    )


def measured_share(estimate: Estimate) -> float:
    """Share of the prediction in pieces that were measured at their own sizes, in some other model."""
    sure = sum(part.seconds for part in estimate.parts if part.trust is Trust.MEASURED)
    return sure / sum(part.seconds for part in estimate.parts)


def flops_of(bench: Bench, model: ir.Model, taken: Exits | None, batch: int) -> float:
    """Expected operations of a call: what a plain count of MACs would rank by."""
    layout = lay_out(model)
    feeds = bench.predictor.prices(batch).feeds
    shapes = [array.shape for array in feeds[len(feeds) // 2].values()]
    tokens = shapes[0][1] if len(shapes[0]) == 2 else 1
    work = FactCache(layout.model).get(Work).at(batch, tokens)
    total = 0.0
    for index, section in enumerate(layout.sections):
        share = 1.0 if taken is None else float(np.mean(taken >= index))
        total += share * sum(work[node].flops for piece in section.pieces for node in piece.nodes)
    return total


def timed(bench: Bench, batch: int, folders: Sequence[Path]) -> Mapping[str, float]:
    """Mean latency of a call for each build, measured in turns on samples no trace has seen."""
    feeds = spread_feeds(bench.timed, batch, TIMED[batch])
    watch = bench.predictor.watch
    runners: dict[str, Runner] = {
        folder.name: watch.generator.load(folder, threads=watch.threads) for folder in folders
    }
    try:
        contestants = {name: runner.run for name, runner in runners.items()}
        timings = interleaved(
            contestants, feeds, rounds=ROUNDS, warmup=3, discard=2, batch_sizes=[batch] * len(feeds)
        )
    finally:
        for runner in runners.values():
            runner.close()
    return {name: timing.mean for name, timing in timings.items()}


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def run(names: Sequence[str], threads: int, configurations: int, folder: Path | None) -> Mapping[str, object]:
    """Everything, as plain data."""
    results: list[Result] = []
    pieces = 0
    with tempfile.TemporaryDirectory() as private:
        cache = Cache(folder or Path(private))
        os.environ[FOLDER_VARIABLE] = str(cache.folder)
        for name in names:
            bench = open_bench(name, threads, cache)
            pieces += survey(bench)
            results += predict_and_time(bench, SETUPS[:configurations])
    found = [result.to_json() for result in results]
    circumstances = {"threads": threads, "machine": fingerprint(threads).to_json()}
    return {**circumstances, "pieces_measured": pieces, **scores(results), "configurations": found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predicted against measured latency.")
    parser.add_argument("--model", choices=[*DATA], action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--configurations", type=int, default=len(SETUPS), help="per model, each at all batch sizes"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="keep measurements of pieces here")
    parser.add_argument("--name", default=NAME, help="of the result files")
    given = parser.parse_args(arguments)
    found = run(given.model or [*DATA], given.threads, given.configurations, given.cache)
    settings = Settings(threads=(given.threads,), batches=BATCHES, rounds=ROUNDS, samples=TIMED[1])
    head = heading(given.name, fingerprint(given.threads), settings)
    write_results(given.name, found, f"{head}\n\n{report(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
