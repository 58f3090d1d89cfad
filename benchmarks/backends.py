"""ONNX Runtime against OpenVINO on the same models, in turns in one process: float, bfloat16 and 8-bit.

    python -m benchmarks.backends --folder /tmp/built --build-only      # once; no timing
    python -m benchmarks.backends --folder /tmp/built [--max-seconds 20]

The 8-bit models are ours: the clean passes, then ``quantize-8bit`` at every product it offers, calibrated on
fit data. Each contestant is one variant of a generator; the baseline is the original file in plain ONNX
Runtime. ``--max-seconds`` is for one model at one batch size. Which kernels run in 8 bits is read from
OpenVINO's executed graph and noted beside the times.

Writes benchmarks/results/backends.{json,txt}. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from adapass.artifact.plain import PlainRunner
from adapass.codegen.openvino.executed import EIGHT_BIT, executed_layers
from adapass.codegen.openvino.plan import Precision
from adapass.codegen.openvino.session import OpenVinoSession
from adapass.cost.bench import BenchResult, Runnable, Settings, bench, table
from adapass.data import Dataset, load_data
from adapass.defaults import CLEAN
from adapass.facts import FactCache
from adapass.generator import Options
from adapass.graph.load import load_model
from adapass.graph.text import clone
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.sites import Setting
from adapass.pipeline import Pipeline
from adapass.registry import generator
from adapass.target import Target, load_target
from adapass.text_form import parse_pass
from benchmarks.harness import RESULTS, heading, shared_folder, write_results

NAME = "backends"
DATA = {"resnet56-cifar10": "cifar10", "minilm-sst2": "sst2"}
WAYS: Mapping[str, tuple[str, Options]] = {
    "onnxruntime": ("onnxruntime", {}),
    "openvino": ("openvino", {}),
    "openvino-bf16": ("openvino", {"precision": "bf16"}),
}
BATCHES = (1, 32)
PRODUCTS = frozenset({"Convolution", "FullyConnected", "MatMul"})
"""What OpenVINO calls the layers that 8 bits are for."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model built one way."""

    folder: Path
    backend: str


def contestants(model: ir.Model, data: Dataset, target: Target, folder: Path) -> dict[str, Contestant]:
    """Every form of ``model`` worth timing, by name; what ``folder`` holds already is not built again."""
    if folder.is_dir():
        return {place.name: _described(place) for place in sorted(folder.iterdir())}
    clean = Pipeline(parse_pass(name) for name in CLEAN).run(model, data=data, seed=0).model
    forms = {"float": clean}
    for setting in Setting:
        if (made := eight_bit(clean, data, setting)) is not None:
            forms[f"8bit-{setting}"] = made
    for form, made in forms.items():
        for suffix, (backend, options) in WAYS.items():
            place = folder / f"{form}-{suffix}"
            place.mkdir(parents=True)
            generator(backend).build(made, target, place, options)
    return {place.name: _described(place) for place in sorted(folder.iterdir())}


def _described(place: Path) -> Contestant:
    return Contestant(place, "openvino" if (place / "openvino.json").is_file() else "onnxruntime")


def eight_bit(clean: ir.Model, data: Dataset, setting: Setting) -> ir.Model | None:
    """All products in 8 bits that can be; ``None`` where none can."""
    model, step = clone(clean), Quantize8bit(min_conv_elements=1)
    chosen = [c for c in step.propose(model, FactCache(model)).choices if c.setting == setting]
    if not chosen:
        return None
    step.apply(model, FactCache(model), chosen)
    step.fit(model, data)
    return model


def executed(built: Contestant) -> Mapping[str, int]:
    """Products by the number format OpenVINO runs them in."""
    file = built.folder / "model.onnx"
    outputs = [value.name or "" for value in load_model(file).graph.outputs]
    precision = Precision.BF16 if built.folder.name.endswith("bf16") else Precision.F32
    layers = executed_layers(OpenVinoSession(file, outputs, threads=1, precision=precision))
    products = [layer for layer in layers if layer.kind in PRODUCTS]
    return Counter("8-bit" if p.precision in EIGHT_BIT else p.precision for p in products)


def run_model(
    name: str, settings: Settings, folder: Path, *, build_only: bool
) -> tuple[BenchResult | None, dict[str, Mapping[str, int]]]:
    """Times of one model, and what OpenVINO runs its products in."""
    shared = shared_folder()
    original = shared / "models" / f"{name}.onnx"
    model = load_model(original)
    fit, held_out = (
        load_data(shared / "data" / f"{DATA[name]}_{part}.npz", model) for part in ("fit", "eval")
    )
    built = contestants(model, fit, load_target("cpu"), folder / name)
    by_folder = {each.folder: each for each in built.values()}

    def opened(path: Path, threads: int) -> Runnable:
        if path not in by_folder:
            return PlainRunner(path, threads=threads)
        return generator(by_folder[path].backend).load(path, threads=threads)

    if build_only:
        return None, {}
    kernels = {label: executed(each) for label, each in built.items() if each.backend == "openvino"}
    return bench(original, list(by_folder), held_out, settings, opener=opened), kernels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="ONNX Runtime against OpenVINO.")
    parser.add_argument("--models", nargs="+", choices=sorted(DATA), default=list(DATA))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-seconds", type=float, default=20.0, help="for one model at one batch size")
    parser.add_argument("--folder", type=Path, required=True, help="where built models are kept")
    parser.add_argument("--build-only", action="store_true")
    given = parser.parse_args(arguments)
    seconds = len(BATCHES) * given.max_seconds
    settings = Settings(threads=(given.threads,), batches=BATCHES, samples=256, max_seconds=seconds)
    file = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    found = {name: found[name] for name in DATA if name in found}
    for name in given.models:
        result, kernels = run_model(name, settings, given.folder, build_only=given.build_only)
        if result is None:
            continue
        lines = [f"  {label}: {dict(counts)}" for label, counts in kernels.items()]
        about = "products by the format OpenVINO runs them in"
        text = "\n".join([heading(name, result.machine, settings), "", table(result), "", about, *lines])
        products = {label: dict(each) for label, each in kernels.items()}
        found[name] = {**result.to_json(), "products": products, "text": text}
    if not given.build_only:
        write_results(NAME, found, "\n\n".join(str(each["text"]) for each in found.values()))


if __name__ == "__main__":
    main()
