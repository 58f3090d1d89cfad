"""Real fine-tunes as deltas: bytes, agreement with the fine-tune, and accuracy on its own task.

    python -m benchmarks.deltas [--only NAME]

Two bases are fine-tuned here, with all their weights (Adam, as long as ``steps`` says):

    topics    minilm-sst2 (sentiment of sentences) learns to tell world and business news from the rest
    inverted  resnet20-cifar10 learns to see photographs whose colours are inverted

Density and scale are chosen on one half of the evaluation samples; everything shown is of the other half.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.data import Dataset, load_data
from adapass.data.archive import read_npz
from adapass.deltas.container import to_bytes
from adapass.deltas.pack import Packed, pack
from adapass.deltas.tune import DENSITIES, MAX_SAMPLES, measured_agreement, tune
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.search.judge import predict, spread_indices
from adapass.twin.build import build_twin
from adapass.twin.torch_import import torch
from adapass.twin.write_back import update_weights
from benchmarks.harness import shared_folder, write_results


@dataclass(frozen=True, slots=True)
class Task:
    """A base, and what it learns."""

    name: str
    base: str
    fit: Mapping[str, Array]
    evaluation: Mapping[str, Array]
    steps: int
    batch: int
    rate: float


def topics(data: Path) -> Task:
    """World (0) and business (2) against sports (1) and science (3)."""

    def marked(name: str) -> dict[str, Array]:
        arrays = read_npz(data / name)
        return {**arrays, "labels": (arrays["labels"].astype(np.int64) % 2).astype(np.int64)}

    fit, evaluation = marked("agnews_fit.npz"), marked("agnews_eval.npz")
    return Task("topics", "minilm-sst2", fit, evaluation, steps=150, batch=16, rate=5e-5)


def inverted(data: Path) -> Task:
    def turned(name: str) -> dict[str, Array]:
        arrays = read_npz(data / name)
        return {**arrays, "image": -arrays["image"].astype(np.float32)}

    fit, evaluation = turned("cifar10_fit.npz"), turned("cifar10_eval.npz")
    return Task("inverted", "resnet20-cifar10", fit, evaluation, steps=300, batch=64, rate=5e-4)


def fine_tuned(base: ir.Model, task: Task) -> ir.Model:
    """All weights, cross-entropy, Adam with a linear decay; deterministic."""
    model = base.clone()
    samples = load_data(task.fit, model)
    labels = samples.labels
    assert labels is not None
    twin = build_twin(model)
    parameters = list(twin.module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=task.rate)
    random = np.random.default_rng(0)
    for step in range(task.steps):
        optimizer.param_groups[0]["lr"] = task.rate * (1.0 - step / task.steps)
        chosen = random.choice(len(samples), task.batch, replace=False)
        outputs = next(iter(twin.compute(samples.batch(chosen)).values()))
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels[chosen].astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    update_weights(model, twin)
    return model


def accuracy(model: ir.Model, samples: Dataset) -> float:
    """On the samples that nothing was chosen on."""
    indices = list(spread_indices(len(samples), 2 * MAX_SAMPLES))[1::2]
    part = samples.subset(indices)
    assert part.labels is not None
    return float((predict(model, part, threads=1).argmax(axis=1) == part.labels).mean())


def measured(task: Task, base: ir.Model) -> Mapping[str, object]:
    fine = fine_tuned(base, task)
    samples = load_data(task.evaluation, base)
    fine_bytes, deflated_bytes = _stored(fine)
    rows = [_row("exact", pack(base, fine, exact=True), fine, samples, fine_bytes)]
    for density in DENSITIES:
        plain = pack(base, fine, density=density)
        best = tune(base, fine, samples, densities=(density,), agreement=1.0).packed
        rows.append(_row("least squares", plain, fine, samples, fine_bytes))
        rows.append(_row("chosen scale", best, fine, samples, fine_bytes))
    return {
        "task": task.name,
        "base": task.base,
        "steps": task.steps,
        "fine_tune_bytes": fine_bytes,
        "fine_tune_deflated_bytes": deflated_bytes,
        "base_accuracy": accuracy(base, samples),
        "fine_tune_accuracy": accuracy(fine, samples),
        "base_agreement": measured_agreement(fine, base, samples),
        "deltas": rows,
    }


def _stored(model: ir.Model) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fine.onnx"
        save_model(model, path)
        data = path.read_bytes()
    return len(data), len(zlib.compress(data, 9))


def _row(
    form: str, packed: Packed, fine: ir.Model, samples: Dataset, fine_bytes: int
) -> Mapping[str, object]:
    size_bytes = len(to_bytes(packed.delta))
    return {
        "form": form,
        "density": packed.delta.density,
        "scale": packed.delta.alpha,
        "delta_bytes": size_bytes,
        "times_smaller": fine_bytes / size_bytes,
        "relative_error": packed.relative_error,
        "agreement": measured_agreement(fine, packed.model, samples),
        "accuracy": accuracy(packed.model, samples),
    }


def text_of(results: Sequence[Mapping[str, object]]) -> str:
    lines = ["Fine-tunes as deltas to their base; agreement and accuracy on samples nothing was chosen on."]
    for found in results:
        lines += [
            "",
            f"{found['task']}: {found['base']} fine-tuned in {found['steps']} steps; "
            f"{found['fine_tune_bytes']:,} bytes, {found['fine_tune_deflated_bytes']:,} deflated",
            f"accuracy on the new task: base {found['base_accuracy']:.4f}, fine-tune "
            f"{found['fine_tune_accuracy']:.4f}; the base agrees with the fine-tune on "
            f"{found['base_agreement']:.4f}",
            "  form            density  scale        bytes   smaller   error  agreement  accuracy",
        ]
        rows = cast("list[Mapping[str, object]]", found["deltas"])
        lines += [
            f"  {row['form']:15} {row['density']:7.2f} {row['scale']:6.2f} {row['delta_bytes']:12,} "
            f"{row['times_smaller']:8.1f}x {row['relative_error']:7.3f} {row['agreement']:10.4f} "
            f"{row['accuracy']:9.4f}"
            for row in rows
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=("topics", "inverted"))
    wanted = parser.parse_args(arguments).only
    shared = shared_folder()
    torch.manual_seed(0)
    results: list[Mapping[str, object]] = []
    for make in (inverted, topics):
        if wanted is None or make.__name__ == wanted:
            task = make(shared / "data")
            results.append(measured(task, load_model(shared / "models" / f"{task.base}.onnx")))
    name = "deltas" if wanted is None else f"deltas_{wanted}"
    write_results(name, {"results": results}, text_of(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
