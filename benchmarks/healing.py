"""Healing: accuracy against time, from unlabeled fit data, on one core.

    python -m benchmarks.healing [--cases ...] [--steps ...] [--seeds ...]

Four cuts of two models, first fitted in closed form, then healed for several numbers of steps. Every number
of steps is a run of its own (the learning rate falls to nothing at its end). Time is processor time of all
threads of this process: what one free core takes. Accuracy is on the eval data, which healing never sees;
labels of the fit data are not read. Runs that the results hold already are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any, Final, cast

import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice
from adapass.data import Dataset, load_data
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import clone
from adapass.healing.heal import heal
from adapass.machine import fingerprint
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_similarity import similarities
from benchmarks.harness import RESULTS, shared_folder, write_results

NAME: Final = "healing"
STEPS: Final = (300, 1000, 2500)


@dataclass(frozen=True, slots=True)
class Case:
    """One model and how it is cut."""

    model: str
    data: str
    what: str
    make: Callable[[], BudgetedPass]
    pick: Callable[[ir.Model, Sequence[Choice], Dataset], Sequence[Choice]]
    target: float
    """Points of accuracy that may be lost."""


def _most_similar(count: int) -> Callable[[ir.Model, Sequence[Choice], Dataset], Sequence[Choice]]:
    def pick(model: ir.Model, choices: Sequence[Choice], fit: Dataset) -> Sequence[Choice]:
        order = similarities(model, FactCache(model), fit)
        removals = [choice for choice in choices if choice.setting == "remove"]
        kept = {c.site for c in sorted(removals, key=lambda c: (-order[c.site], c.site))[:count]}
        return [choice for choice in removals if choice.site in kept]

    return pick


def _halved(units: Sequence[int]) -> Callable[[ir.Model, Sequence[Choice], Dataset], Sequence[Choice]]:
    def pick(model: ir.Model, choices: Sequence[Choice], fit: Dataset) -> Sequence[Choice]:
        del model, fit
        return [
            choice
            for choice in choices
            if choice.detail["units"] in units and choice.setting == f"keep-{_number(choice) // 2}"
        ]

    return pick


def _number(choice: Choice) -> int:
    return int(str(choice.detail["units"]))


def _layers(places: Sequence[int]) -> Callable[[ir.Model, Sequence[Choice], Dataset], Sequence[Choice]]:
    def pick(model: ir.Model, choices: Sequence[Choice], fit: Dataset) -> Sequence[Choice]:
        del model, fit
        both = [c for c in choices if c.setting == "remove" and len(_parts(c)) == len(("attention", "rest"))]
        return [both[place] for place in places]

    return pick


def _parts(choice: Choice) -> Sequence[object]:
    parts = choice.detail["parts"]
    return cast("list[object]", parts) if isinstance(parts, list) else []


CASES: Final[Mapping[str, Case]] = {
    "resnet56-blocks": Case(
        "resnet56-cifar10", "cifar10", "13 of 27 blocks removed", RemoveBlocks, _most_similar(13), 0.5
    ),
    "resnet56-widths": Case(
        "resnet56-cifar10",
        "cifar10",
        "inner widths of stages 2, 3 halved",
        PruneStructures,
        _halved((32, 64)),
        0.5,
    ),
    "minilm-ffn": Case(
        "minilm-sst2", "sst2", "neurons of all layers halved", PruneStructures, _halved((1536,)), 0.3
    ),
    "minilm-layers": Case("minilm-sst2", "sst2", "2 of 6 layers removed", RemoveBlocks, _layers((2, 4)), 0.3),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case ready to be healed."""

    original: ir.Model
    fitted: ir.Model
    fit: Dataset
    judge: Dataset
    work: float
    """Arithmetic of the cut model over that of the original."""


def prepared(case: Case) -> Prepared:
    shared = shared_folder()
    original = load_model(shared / "models" / f"{case.model}.onnx")
    fit = load_data(shared / "data" / f"{case.data}_fit.npz", original)
    judge = load_data(shared / "data" / f"{case.data}_eval.npz", original)
    fitted, rewrite = clone(original), case.make()
    facts = FactCache(fitted)
    rewrite.apply(fitted, facts, case.pick(original, rewrite.propose(fitted, facts).choices, fit))
    rewrite.fit(fitted, fit)
    return Prepared(original, fitted, fit, judge, _flops(fitted) / _flops(original))


def _flops(model: ir.Model) -> int:
    return sum(part.flops for part in FactCache(model).get(Work).typical)


def accuracy(model: ir.Model, data: Dataset) -> float:
    """Percent of right classes."""
    session, labels = Session(model, optimize=True), data.labels
    assert labels is not None  # eval data has them
    right = 0
    for indices, feeds in data.batches(100, by_length=True):
        scores = next(iter(session.run(feeds).values()))
        right += int((scores.argmax(1) == labels[indices]).sum())
    return 100 * right / len(data)


def run(name: str, steps: Sequence[int], seeds: Sequence[int], known: dict[str, object]) -> Iterator[None]:
    """Add to ``known`` what is not there; yields after each."""
    wanted = [(n, seed) for n in steps for seed in seeds if f"{name}/{n}/{seed}" not in known]
    if not wanted and name in known:
        return
    case = CASES[name]
    ready = prepared(case)
    known[name] = {
        "model": case.model,
        "what": case.what,
        "work": ready.work,
        "target": case.target,
        "original": accuracy(ready.original, ready.judge),
        "fitted": accuracy(ready.fitted, ready.judge),
    }
    yield
    for number, seed in wanted:
        start = process_time()
        healed = heal(ready.original, ready.fitted, ready.fit, steps=number, seed=seed)
        seconds = process_time() - start
        known[f"{name}/{number}/{seed}"] = {
            **healed.to_json(),
            "accuracy": accuracy(healed.model, ready.judge),
            "processor_seconds": round(seconds, 1),
        }
        yield


def table(known: Mapping[str, object]) -> str:
    """One line a run, beginning with what nothing was healed of."""
    lines = [
        f"{'case':<17}{'work':>6}{'steps':>7}{'seed':>5}{'core s':>8}"
        f"{'held-out':>10}{'accuracy':>10}{'lost':>7}"
    ]
    for name in CASES:
        if not isinstance(known.get(name), dict):
            continue
        about = cast("dict[str, Any]", known[name])
        original, fitted = float(about["original"]), float(about["fitted"])
        lines.append(f"{name:<17}{about['work']:>6.3f}   {about['what']}; original {original:.2f} %")
        runs = [
            (key.split("/"), cast("dict[str, Any]", found))
            for key, found in known.items()
            if key.startswith(f"{name}/") and isinstance(found, dict)
        ]
        runs.sort(key=lambda item: (int(item[0][1]), int(item[0][2])))
        first = next((found for _, found in runs), None)
        before = f"{first['held_out_before']:>10.4f}" if first else f"{'':>10}"
        lines.append(f"{'':<23}{0:>7}{'':>13}{before}{fitted:>10.2f}{original - fitted:>7.2f}")
        lines += [
            f"{'':<23}{steps:>7}{seed:>5}{found['processor_seconds']:>8.0f}"
            f"{found['held_out_after']:>10.4f}{found['accuracy']:>10.2f}"
            f"{original - float(found['accuracy']):>7.2f}"
            for (_, steps, seed), found in runs
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accuracy against healing time.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args(arguments)
    file = RESULTS / f"{NAME}.json"
    known: dict[str, object] = json.loads(file.read_text())["runs"] if file.is_file() else {}
    machine = fingerprint(1)
    for case in given.cases:
        for _ in run(case, given.steps, given.seeds, known):
            libraries = ", ".join(f"{k} {v}" for k, v in machine.versions.items())
            head = f"{NAME}\nmachine   {machine.processor}, one thread\nsoftware  torch, {libraries}"
            write_results(NAME, {"runs": known, "machine": machine.to_json()}, f"{head}\n\n{table(known)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
