"""The main job on the trained models of the shared folder, end to end, as a user would run it.

    python -m benchmarks.main_job [minilm-sst2] [resnet56-cifar10] [resnet20-cifar10] [no-data]

For each model: optimize with data, then compare in one process, in turns: batch 1 and batch 32 against the
original, the portable model.onnx in plain ONNX Runtime, and batch results against batch-1 results.
Writes benchmarks/results/main_job.json. Needs an idle machine; takes some minutes a model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapass.artifact.plain import PlainRunner
from adapass.artifact.runtime import load_artifact
from adapass.budgeted import Array
from adapass.cost.measure import interleaved
from adapass.data import Dataset, load_data
from adapass.driver.optimize import optimize
from adapass.errors import ExitCode
from adapass.graph.load import load_model
from adapass.machine import fingerprint
from benchmarks.harness import RESULTS, shared_folder

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10", "resnet20-cifar10": "cifar10"}
THREADS = 2
MAX_DROP = 0.02
BATCH = 32
BATCHES = 8
COMPARED = 256
"""Samples whose batch and portable results are compared one by one."""


def run_model(name: str, folder: Path) -> dict[str, object]:
    """Everything about one model, as plain data."""
    shared = shared_folder()
    model = shared / "models" / f"{name}.onnx"
    fit, held_out = (shared / "data" / f"{DATA[name]}_{part}.npz" for part in ("fit", "eval"))
    artifact = folder / f"{name}.adapass"
    result = optimize(
        model, data=fit, eval_data=held_out, max_drop=MAX_DROP, threads=THREADS, output=artifact
    )
    found: dict[str, object] = {"job": result.to_dict()}
    if result.exit_code is not ExitCode.OK:
        return found
    samples = load_data(held_out, load_model(model))
    return {
        **found,
        "eval": whole_eval(model, artifact, samples),
        "batch": batches(model, artifact, samples),
        "equal": equalities(artifact, samples),
    }


def whole_eval(model: Path, artifact: Path, samples: Dataset) -> dict[str, float]:
    """Accuracy on the whole evaluation file, search part included: a report, not a certificate."""
    labels = samples.labels
    assert labels is not None
    with load_artifact(artifact, THREADS) as result:
        original = PlainRunner(model, threads=THREADS)
        right = np.zeros((2, len(samples)))
        for index in range(len(samples)):
            feeds = samples.feeds(index)
            right[0, index] = _first(original.run(feeds).outputs).argmax() == labels[index]
            right[1, index] = _first(result.run(feeds)).argmax() == labels[index]
        original.close()
    before, after = right.mean(axis=1)
    return {"before": float(before), "after": float(after), "drop_points": 100 * float(before - after)}


def batches(model: Path, artifact: Path, samples: Dataset) -> dict[str, float]:
    """Throughput of batches of 32, padded to the longest of each."""
    feeds = [samples.batch(range(start, start + BATCH)) for start in range(0, BATCH * BATCHES, BATCH)]
    original = PlainRunner(model, threads=THREADS)
    with load_artifact(artifact, THREADS) as result:
        contestants = {"original": original.run, "artifact": result.run}
        timings = interleaved(contestants, feeds, rounds=8, warmup=2, batch_sizes=[BATCH] * len(feeds))
    original.close()
    before, after = timings["original"].throughput, timings["artifact"].throughput
    return {"original_per_second": before, "artifact_per_second": after, "ratio": after / before}


def equalities(artifact: Path, samples: Dataset) -> dict[str, float]:
    """Batch results against batch-1 results; the portable file in ONNX Runtime against the artifact."""
    count = min(COMPARED, len(samples))
    with load_artifact(artifact, THREADS) as result:
        portable = PlainRunner(artifact / "model.onnx", threads=THREADS)
        alone = np.concatenate([_first(result.run(samples.feeds(i))) for i in range(count)])
        plain = np.concatenate([_first(portable.run(samples.feeds(i)).outputs) for i in range(count)])
        together = np.concatenate(
            [
                _first(result.run(samples.batch(range(start, min(start + BATCH, count)))))
                for start in range(0, count, BATCH)
            ]
        )
        portable.close()
    one, many, ported = (np.asarray(found, np.float64) for found in (alone, together, plain))
    scale = float(np.sqrt(np.mean(one**2)))
    return {
        "batch_largest_difference_over_rms": float(np.abs(one - many).max()) / scale,
        "batch_same_decision": float((one.argmax(-1) == many.argmax(-1)).mean()),
        "portable_largest_difference_over_rms": float(np.abs(one - ported).max()) / scale,
    }


def no_data(folder: Path) -> dict[str, object]:
    """The plain command: what it does on this processor, and for a GPU that is not here."""
    model = shared_folder() / "models" / "resnet56-cifar10.onnx"
    return {
        target: optimize(model, target=target, threads=THREADS, output=folder / f"{target}.adapass").to_dict()
        for target in ("cpu", "cuda")
    }


def _first(outputs: Mapping[str, Array]) -> Array:
    return next(iter(outputs.values()))


def main() -> None:
    file = RESULTS / "main_job.json"
    results: dict[str, object] = json.loads(file.read_text()) if file.is_file() else {}
    results["machine"] = fingerprint(THREADS).to_json()
    results["settings"] = {"threads": THREADS, "max_drop": MAX_DROP, "batch": BATCH}
    for name in sys.argv[1:] or [*DATA, "no-data"]:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = no_data(Path(folder)) if name == "no-data" else run_model(name, Path(folder))
        file.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
        print(name, json.dumps(_summary(results[name]), indent=2))


def _summary(found: object) -> object:
    entries = cast("dict[str, dict[str, Any]]", found)
    if "job" not in entries:
        return {target: (job["exit_code"], job["reason"]) for target, job in entries.items()}
    rest = {name: entry for name, entry in entries.items() if name != "job"}
    return {"table": entries["job"]["report"]["table"], **rest}


if __name__ == "__main__":
    main()
