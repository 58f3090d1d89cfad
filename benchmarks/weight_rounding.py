"""How far models in few bits are from the float model: nearest, second-order and learned rounding.

    python -m benchmarks.weight_rounding [minilm-sst2] [resnet56-cifar10] [--formats int4-g32 ...]

Each model is really stored in the format (packed integers, scales, zero points), saved, read back and
executed by ONNX Runtime with its optimisations, as it would ship: once as it is by default, when kernels of
few bits round activations to 8 bits, and once with activations in single precision, which is what rounding
weights alone does. Disagreement is measured on held-out data: the share of samples whose class changes, with
its 95 % interval, the divergence of the class probabilities, and the relative error of the outputs. Rounding
sees other data. What is measured is noted row by row (``--state``), so that a
run that was stopped goes on where it was; rows of earlier results that are not measured again stay.
``learned`` needs torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from scipy.stats import binomtest

from adapass.data import Dataset
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.moments.batches import Batches, feed_names
from adapass.passes.quantize.weight_only.quantize_weights import QuantizeWeights
from adapass.search.damage import damage_of
from adapass.text_form import parse_pass
from benchmarks.harness import RESULTS, write_results
from benchmarks.trained import BATCH, DATA, Doubles, Trained, accuracy

NAME = "weight_rounding"
HELD = 2000
"""Most held-out samples; of sst2 there are 1872, all of them taken."""
CONFIDENCE = 0.95
SAMPLES = 256
FORMATS = ("int4-g32", "int4-g128", "int2-g32")
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "nearest": "rounding=nearest",
        "nearest-mse": "rounding=nearest scales=mse",
        "second-order": "rounding=second-order",
        "learned": "rounding=learned",
    }
)
BASELINES = ("nearest", "nearest-mse")
LEVELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"8 bits": {}, "float": {"session.qdq_matmulnbits_accuracy_level": "1"}}
)
"""What becomes of activations inside kernels of few bits: by default, and told to keep them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one format."""

    model: str
    format: str
    method: str
    products: int
    changed: float
    """Share of samples with another predicted class."""
    divergence: float
    """Mean, in nats."""
    distortion: float
    """Root mean square of the change of the outputs over that of the outputs."""
    accuracy: float
    file_bytes: int
    activations: str = "8 bits"
    """Inside kernels of few bits; others compute in float."""
    held: int = 0
    """Held-out samples; 0: not noted."""


def step_of(format_: str, method: str, samples: int) -> QuantizeWeights:
    """The pass that a row stands for."""
    step = parse_pass(
        f'quantize-weights{{settings=["{format_}"] calibration-samples={samples} {METHODS[method]}}}'
    )
    assert isinstance(step, QuantizeWeights)
    return step


def measure(trained: Trained, reference: Doubles, format_: str, method: str, samples: int) -> tuple[Row, ...]:
    """Store every weight that the format takes, and compare with the float model, at each of ``LEVELS``."""
    model = clone(trained.clean)
    facts = FactCache(model)
    step = step_of(format_, method, samples)
    choices = step.propose(model, facts).choices
    step.apply(model, facts, choices)
    step.fit(model, trained.fit)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_model(model, file)
        file_bytes = sum(each.stat().st_size for each in Path(folder).iterdir())
        stored = load_model(file)
        said = {name: outputs(stored, trained.held, entries) for name, entries in LEVELS.items()}
    rows: list[Row] = []
    for activations, found in said.items():
        damage = damage_of(reference, found)
        rows.append(
            Row(
                trained.name,
                format_,
                method,
                len(choices),
                changed_share(reference, found),
                damage.additive(classes=True),
                damage.distortion,
                accuracy(found, trained.held),
                file_bytes,
                activations,
                len(reference),
            )
        )
    return tuple(rows)


def outputs(model: ir.Model, samples: Dataset, entries: Mapping[str, str]) -> Doubles:
    """The first output of every sample, in order, [N, ...]; samples of similar length run together."""
    name = model.graph.outputs[0].name or ""
    session = Session(model, outputs=[name], optimize=True, entries=entries)
    found: dict[int, Doubles] = {}
    for selection, feeds in Batches.of(model, samples, size=BATCH, padded=True):
        rows = session.run(feed_names(model, feeds))[name]
        found.update(zip(selection.indices, rows.astype(np.float64), strict=False))  # padding is at the end
    return np.stack([found[index] for index in range(len(samples))])


def changed_share(before: Doubles, after: Doubles) -> float:
    """Share of rows whose largest entry is another one."""
    classes = [[int(place) for place in each.argmax(axis=-1)] for each in (before, after)]
    return float(sum(a != b for a, b in zip(*classes, strict=True)) / len(before))


def interval(row: Row) -> tuple[float, float] | None:
    """Of the share of changed classes (Clopper and Pearson); ``None``: how many samples is not known."""
    if not row.held:
        return None
    changed = round(row.changed * row.held)
    low, high = binomtest(changed, row.held).proportion_ci(CONFIDENCE, "exact")
    return float(low), float(high)


def table(rows: Sequence[Row]) -> str:
    """One line a row, and how much better each is than the better of the two nearest ones."""
    head = (
        f"{'model':<18}{'format':<17}{'rounding':<14}{'activations':<13}{'changed':>8}{'95 %':>14}"
        f"{'divergence':>12}{'output error':>14}{'accuracy':>10}{'MB':>7}{'nearest / it':>14}{'changed':>9}"
    )
    lines = [head]
    for row in rows:
        between = interval(row)
        span = "-" if between is None else f"{100 * between[0]:.2f} to {100 * between[1]:.2f}"
        lines.append(
            f"{row.model:<18}{row.format:<17}{row.method:<14}{row.activations:<13}{row.changed:>8.2%}{span:>14}"
            f"{row.divergence:>12.5f}{row.distortion:>14.4f}{row.accuracy:>10.2%}{row.file_bytes / 1e6:>7.1f}"
            f"{_ratio(best_nearest(rows, row, 'divergence'), row.divergence):>14}"
            f"{_ratio(best_nearest(rows, row, 'changed'), row.changed):>9}"
        )
    return "\n".join(lines)


def _ratio(nearest: float | None, own: float) -> str:
    return "-" if nearest is None or own <= 0.0 else f"{nearest / own:.2f}"


def best_nearest(rows: Sequence[Row], like: Row, what: str = "divergence") -> float | None:
    """The least of rounding to nearest, of what ``like`` is a row of, if it is there."""
    same = (like.model, like.format, like.activations)
    found = [
        float(getattr(row, what))
        for row in rows
        if row.method in BASELINES and (row.model, row.format, row.activations) == same
    ]
    return min(found, default=None)


def known_rows(file: Path, samples: int) -> list[Row]:
    """What is noted, of runs with as many calibration samples."""
    if not file.exists():
        return []
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Row(**entry["row"]) for entry in entries if entry["samples"] == samples]


def earlier(samples: int, folder: Path = RESULTS) -> list[Row]:
    """Rows of the results that are there, taken with as many calibration samples."""
    file = folder / f"{NAME}.json"
    if not file.exists():
        return []
    document = json.loads(file.read_text(encoding="utf-8"))
    return [Row(**row) for row in document["rows"]] if document["samples"] == samples else []


def merged(fresh: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """Fresh rows, and those before that were not measured again."""
    found = {(r.model, r.format, r.method, r.activations): r for r in (*before, *fresh)}
    return list(found.values())


def _fill(name: str, formats: Sequence[str], methods: Sequence[str], samples: int, state: Path) -> None:
    noted = [row for row in known_rows(state, samples) if row.model == name]
    done = {(row.format, row.method) for row in noted if row.activations == list(LEVELS)[-1]}
    missing = [(f, m) for f in formats for m in methods if (f, m) not in done]
    if not missing:
        return
    trained = Trained.load(name, HELD)
    reference = outputs(trained.clean, trained.held, {})
    for format_, method in missing:
        started = time.monotonic()
        for row in measure(trained, reference, format_, method, samples):
            with state.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"samples": samples, "row": asdict(row)}) + "\n")
            sys.stderr.write(f"{row}\n")
        sys.stderr.write(f"in {time.monotonic() - started:.0f} s\n")


def report(rows: Sequence[Row], samples: int) -> None:
    """Write the results, with what they were taken with."""
    order = {name: place for place, name in enumerate((*DATA, *FORMATS, *METHODS, *LEVELS))}
    ranked = sorted(
        rows,
        key=lambda r: [order.get(key, 99) for key in (r.model, r.activations, r.format, r.method)],
    )
    machine = fingerprint(1)
    heading = (
        f"{NAME}: disagreement with the float model on held-out data\n"
        f"weights of MatMul, Gemm and Conv stored in few bits; {samples} calibration samples\n"
        f"changed: share of samples with another class, and its {100 * CONFIDENCE:.0f} % interval\n"
        f"divergence in nats; nearest / it: the better of the two nearest ones over this one, by divergence "
        f"and by changed classes\n"
        f"executed by ONNX Runtime, products as MatMulNBits; activations inside it are rounded to 8 bits by "
        f"default (accuracy level 4), or stay in float (level 1)\n"
        f"machine {machine.processor}, {machine.cores} cores"
    )
    result = {
        "rows": [asdict(row) for row in ranked],
        "samples": samples,
        "held_out": HELD,
        "machine": machine.key,
    }
    write_results(NAME, result, f"{heading}\n\n{table(ranked)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Disagreement of rounded models with the float model.")
    parser.add_argument("models", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration samples")
    default = Path(tempfile.gettempdir()) / f"adapass-{NAME}.jsonl"
    parser.add_argument("--state", type=Path, default=default, help="where finished rows are noted")
    given = parser.parse_args(arguments)
    for name in given.models:
        _fill(name, given.formats, given.methods, given.samples, given.state)
    report(merged(known_rows(given.state, given.samples), earlier(given.samples)), given.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
