"""Cut a generated transformer of 1.2 GB in a process of its own, and look at its memory and time.

    python -m benchmarks.large_model [--layers 24] [--width 1024] [--samples 48] [--folder FOLDER]

The model (an encoder with random weights, float32, weights in a file beside it) loses 30 % of the neurons of
every feed-forward layer and of the heads of every attention by the pass ``prune-structures``: units chosen by
the size of their weights, the products that read them refitted by least squares on generated tokens, the
result checked and saved. Peak memory is what the process itself reports (``ru_maxrss``), mapped weights
included. Writes benchmarks/results/large_model.{json,txt}.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import clone
from adapass.passes.prune.importance import Importance
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.refit import Refit
from benchmarks.harness import ROOT, write_results
from benchmarks.large_model_encoder import Sizes, write_encoder

NAME = "large_model"
LIMIT_BYTES = 2_500_000_000
LIMIT_SECONDS = 180.0
KEEP = 0.7
TOKENS = 32


@dataclass
class Record:
    """What the child reports."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    cpu_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Of the processor: what the clock would show if nothing else ran."""
    peak_bytes: dict[str, int] = field(default_factory=dict[str, int])
    """Highest so far, at the end of each step."""
    sites: int = 0
    refused: int = 0
    before_bytes: int = 0
    after_bytes: int = 0
    error: float = 0.0
    """Of the outputs on fresh tokens, relative to the original: root of the mean square."""
    error_unfitted: float = 0.0

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        started, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.cpu_seconds[name] = round(time.process_time() - worked, 2)
        self.peak_bytes[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and time of cutting a large model.")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the model goes; temporary by default"
    )
    parser.add_argument("--child", choices=("write", "cut"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    sizes = Sizes(layers=given.layers, width=given.width)
    if given.child == "write":
        write_encoder(sizes, given.folder)
        return 0
    if given.child == "cut":
        sys.stdout.write(json.dumps(asdict(cut(given.folder, sizes, given.samples, given.ridge))))
        return 0
    if given.folder is not None:
        return _run(given, sizes, given.folder)
    with tempfile.TemporaryDirectory(prefix="adapass-large-") as name:
        return _run(given, sizes, Path(name))


def cut(folder: Path, sizes: Sizes, samples: int, ridge: float) -> Record:
    """Load, cut, fit, check and save, in this process."""
    record = Record()
    pruning = PruneStructures(
        ratios=(KEEP,), importance=Importance.MAGNITUDE, refit=Refit.READERS, samples=samples, ridge=ridge
    )
    data = Tokens.random(sizes.vocabulary, samples, seed=1)
    with record.step("load"):
        model = load_model(folder / "model.onnx")
    original = clone(model)
    record.before_bytes = tensor_bytes(model)
    with record.step("find"):
        proposal = pruning.propose(model, FactCache(model))
    record.sites, record.refused = len(proposal.choices), len(proposal.refusals)
    with record.step("remove"):
        pruning.apply(model, FactCache(model), proposal.choices)
    unfitted = clone(model)
    with record.step("fit"):
        pruning.fit(model, data)
    record.after_bytes = tensor_bytes(model)
    with record.step("check"):
        pruning.check(original, model, [])
    with record.step("save"):
        save_model(model, folder / "cut.onnx")
    fresh = Tokens.random(sizes.vocabulary, 2, seed=2).batch([0, 1])
    record.error, record.error_unfitted = (_error(original, each, fresh) for each in (model, unfitted))
    return record


@dataclass(frozen=True)
class Tokens:
    """Random sentences of one length as ``Samples``."""

    ids: npt.NDArray[np.int64]
    labels: Array | None = None

    @classmethod
    def random(cls, vocabulary: int, count: int, seed: int) -> Tokens:
        return cls(np.random.default_rng(seed).integers(0, vocabulary, (count, TOKENS)))

    def __len__(self) -> int:
        return len(self.ids)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"input_ids": self.ids[list(indices)]}


def _error(original: ir.Model, other: ir.Model, feeds: Feeds) -> float:
    """Root of the mean squared difference of the outputs, relative to that of the original."""
    wanted, found = (Session(model, optimize=True).run(feeds)["hidden"] for model in (original, other))
    difference = np.asarray(wanted, np.float64) - np.asarray(found, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(wanted, np.float64)))


def _run(given: argparse.Namespace, sizes: Sizes, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    options = [f"--{name}={getattr(given, name)}" for name in ("layers", "width", "samples", "ridge")]
    command = [sys.executable, "-m", "benchmarks.large_model", *options, f"--folder={folder}"]
    if not (folder / "model.onnx").is_file():
        subprocess.run([*command, "--child=write"], check=True, cwd=ROOT)
    started = time.perf_counter()
    child = subprocess.run([*command, "--child=cut"], check=True, cwd=ROOT, capture_output=True)
    wall_seconds = time.perf_counter() - started
    record: dict[str, Any] = json.loads(child.stdout)
    peak_bytes = max(record["peak_bytes"].values())
    holds = peak_bytes <= LIMIT_BYTES and sum(record["seconds"].values()) <= LIMIT_SECONDS
    result = {**record, "wall_seconds": round(wall_seconds, 1), "sizes": asdict(sizes)}
    result |= {name: getattr(given, name) for name in ("samples", "ridge")}
    write_results(NAME, {**result, "peak": peak_bytes, "holds": holds}, text(result, peak_bytes, holds=holds))
    return 0 if holds else 1


def text(result: Mapping[str, Any], peak_bytes: int, *, holds: bool) -> str:
    sizes, seconds, worked, peaks = (result[key] for key in ("sizes", "seconds", "cpu_seconds", "peak_bytes"))
    rows = [
        f"  {name:<8}{seconds[name]:>8.1f} s, {worked[name]:>6.1f} s of processor time, "
        f"peak so far {peaks[name] / 1e9:.2f} GB"
        for name in seconds
    ]
    return "\n".join(
        [
            f"encoder, {sizes['layers']} layers of width {sizes['width']}: "
            f"{result['before_bytes'] / 1e9:.3f} GB of weights -> {result['after_bytes'] / 1e9:.3f} GB",
            f"{result['sites']} groups cut to {KEEP:.0%} (by magnitude), {result['refused']} refused; their "
            f"readers refitted on {result['samples']} generated samples of {TOKENS} tokens",
            *rows,
            f"peak {peak_bytes / 1e9:.2f} GB (limit {LIMIT_BYTES / 1e9:.1f}), "
            f"{sum(seconds.values()):.0f} s (limit {LIMIT_SECONDS:.0f}), "
            f"{sum(worked.values()):.0f} s of processor time "
            f"(it had {sum(worked.values()) / sum(seconds.values()):.0%} of one): "
            f"{'holds' if holds else 'too much'}",
            f"relative error of the outputs on other tokens {result['error']:.3f}, "
            f"without the fit {result['error_unfitted']:.3f}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
