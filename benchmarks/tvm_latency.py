"""minilm-sst2 in float: TVM against ONNX Runtime and OpenVINO, in turns in one process.

    python -m benchmarks.tvm_latency --folder /tmp/built --build-only      # once; no timing
    python -m benchmarks.tvm_latency --folder /tmp/built [--max-seconds 120]

Every contestant is the exact variant of its generator for the model after the clean passes; the baseline is
the original file in plain ONNX Runtime. At most ``--max-seconds`` for a batch size (1, 32) and thread count.
Writes benchmarks/results/tvm_latency.{json,txt}. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from adapass.artifact.plain import PlainRunner
from adapass.cost.bench import Runnable, Settings, bench, table
from adapass.data import load_data
from adapass.defaults import CLEAN
from adapass.graph.load import load_model
from adapass.pipeline import Pipeline
from adapass.registry import generator
from adapass.target import load_target
from adapass.text_form import parse_pass
from benchmarks.harness import heading, shared_folder, write_results

NAME = "tvm_latency"
MODEL = "minilm-sst2"
BACKENDS = ("onnxruntime", "openvino", "tvm")
BATCHES = (1, 32)


def build(folder: Path) -> list[Path]:
    """Every backend's build, each in a folder of its name; what is there is not built again."""
    target = load_target("cpu")
    original = load_model(shared_folder() / "models" / f"{MODEL}.onnx")
    clean = Pipeline(parse_pass(name) for name in CLEAN).run(original, seed=0).model
    for backend in BACKENDS:
        place = folder / backend
        if place.is_dir():
            continue
        place.mkdir(parents=True)
        start = time.perf_counter()
        variant = generator(backend).variants(clean, target, threads=1, batch=1)[0]
        generator(backend).build(clean, target, place, variant.options)
        print(f"{backend} built in {time.perf_counter() - start:.1f} s")
    return [folder / backend for backend in BACKENDS]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="minilm-sst2 in float through TVM.")
    parser.add_argument("--folder", type=Path, required=True, help="where built models are kept")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--max-seconds", type=float, default=120.0, help="for one batch size and thread count"
    )
    parser.add_argument("--build-only", action="store_true")
    given = parser.parse_args(arguments)
    built = build(given.folder)
    if given.build_only:
        return

    def opened(path: Path, threads: int) -> Runnable:
        if path not in built:
            return PlainRunner(path, threads=threads)
        return generator(path.name).load(path, threads=threads)

    model = shared_folder() / "models" / f"{MODEL}.onnx"
    data = load_data(shared_folder() / "data" / "sst2_eval.npz", load_model(model))
    seconds = len(BATCHES) * len(given.threads) * given.max_seconds
    settings = Settings(threads=tuple(given.threads), batches=BATCHES, samples=256, max_seconds=seconds)
    result = bench(model, built, data, settings, opener=opened)
    write_results(NAME, result.to_json(), f"{heading(NAME, result.machine, settings)}\n\n{table(result)}")


if __name__ == "__main__":
    main()
