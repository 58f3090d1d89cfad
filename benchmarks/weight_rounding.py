"""How far models in few bits are from the float model: nearest, second-order and learned rounding.

    python -m benchmarks.weight_rounding [minilm-sst2] [resnet56-cifar10] [--formats int4-g32 ...]

Each model is really stored in the format (packed integers, scales, zero points), saved, read back and
executed by ONNX Runtime with its optimisations, as it would ship. Disagreement is measured on held-out data:
the share of samples whose class changes, the divergence of the class probabilities, and the relative
error of the outputs. Rounding sees other data. What is measured is noted row by row (``--state``), so that a
run that was stopped goes on where it was. ``learned`` needs torch.
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

from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.passes.quantize.weight_only.quantize_weights import QuantizeWeights
from adapass.search.damage import damage_of
from adapass.text_form import parse_pass
from benchmarks.harness import write_results
from benchmarks.trained import DATA, Doubles, Trained, accuracy, outputs

NAME = "weight_rounding"
HELD = 2000
"""Most held-out samples; of sst2 there are 872."""
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


def step_of(format_: str, method: str, samples: int) -> QuantizeWeights:
    """The pass that a row stands for."""
    step = parse_pass(
        f'quantize-weights{{settings=["{format_}"] calibration-samples={samples} {METHODS[method]}}}'
    )
    assert isinstance(step, QuantizeWeights)
    return step


def measure(trained: Trained, reference: Doubles, format_: str, method: str, samples: int) -> Row:
    """Store every weight that the format takes, and compare with the float model."""
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
        found = outputs(load_model(file), trained.held)
    damage = damage_of(reference, found)
    return Row(
        trained.name,
        format_,
        method,
        len(choices),
        changed_share(reference, found),
        damage.additive(classes=True),
        damage.distortion,
        accuracy(found, trained.held),
        file_bytes,
    )


def changed_share(before: Doubles, after: Doubles) -> float:
    """Share of rows whose largest entry is another one."""
    classes = [[int(place) for place in each.argmax(axis=-1)] for each in (before, after)]
    return float(sum(a != b for a, b in zip(*classes, strict=True)) / len(before))


def table(rows: Sequence[Row]) -> str:
    """One line a row, and how much better each is than the better of the two nearest ones."""
    head = (
        f"{'model':<18}{'format':<17}{'rounding':<14}{'changed':>9}{'divergence':>12}{'output error':>14}"
        f"{'accuracy':>10}{'MB':>7}{'nearest / it':>14}"
    )
    lines = [head]
    for row in rows:
        nearest = best_nearest(rows, row)
        ratio = "-" if nearest is None or row.divergence <= 0.0 else f"{nearest / row.divergence:.2f}"
        lines.append(
            f"{row.model:<18}{row.format:<17}{row.method:<14}{row.changed:>9.2%}{row.divergence:>12.5f}"
            f"{row.distortion:>14.4f}{row.accuracy:>10.2%}{row.file_bytes / 1e6:>7.1f}{ratio:>14}"
        )
    return "\n".join(lines)


def best_nearest(rows: Sequence[Row], like: Row) -> float | None:
    """The least divergence of rounding to nearest, of the model and format of ``like``, if it is there."""
    found = [
        row.divergence
        for row in rows
        if row.method in BASELINES and (row.model, row.format) == (like.model, like.format)
    ]
    return min(found, default=None)


def known_rows(file: Path, samples: int) -> list[Row]:
    """What is noted, of runs with as many calibration samples."""
    if not file.exists():
        return []
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Row(**entry["row"]) for entry in entries if entry["samples"] == samples]


def _fill(name: str, formats: Sequence[str], methods: Sequence[str], samples: int, state: Path) -> None:
    done = {(row.format, row.method) for row in known_rows(state, samples) if row.model == name}
    missing = [(f, m) for f in formats for m in methods if (f, m) not in done]
    if not missing:
        return
    trained = Trained.load(name, HELD)
    reference = outputs(trained.clean, trained.held)
    for format_, method in missing:
        started = time.monotonic()
        row = measure(trained, reference, format_, method, samples)
        with state.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"samples": samples, "row": asdict(row)}) + "\n")
        sys.stderr.write(f"{row} in {time.monotonic() - started:.0f} s\n")


def report(rows: Sequence[Row], samples: int) -> None:
    """Write the results, with what they were taken with."""
    order = {name: place for place, name in enumerate((*DATA, *FORMATS, *METHODS))}
    ranked = sorted(rows, key=lambda row: [order.get(key, 99) for key in (row.model, row.format, row.method)])
    machine = fingerprint(1)
    heading = (
        f"{NAME}: disagreement with the float model on held-out data\n"
        f"weights of MatMul, Gemm and Conv stored in few bits; {samples} calibration samples\n"
        f"divergence in nats; nearest / it: divergence of the better of the two nearest ones over this one\n"
        f"executed by ONNX Runtime, products as MatMulNBits at its default accuracy level\n"
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
    report(known_rows(given.state, given.samples), given.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
