"""Our 8 bits against those of ONNX Runtime's own tools and of NNCF, in turns in one process.

    python -m benchmarks.eight_bit [minilm-sst2] [resnet56-cifar10] [--folder /tmp/built] [--build-only]

Ours are whole runs of ``adapass optimize`` (``--max-drop 0.005`` unless told otherwise): with
``quantize-8bit`` as the only family and with the default families, once for ONNX Runtime alone and once for
whatever generator is fastest. The peers (``benchmarks/peers.py``) are calibrated on the same fit data.
Quality is accuracy on all held-out samples, and for ours the certificate. ``--folder`` keeps what was
built; it is not built again.

Writes benchmarks/results/eight_bit.{json,txt}. Needs an idle machine, ``pip install nncf`` and the
``openvino`` extra; takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapass.artifact.plain import PlainRunner
from adapass.artifact.runtime import load_artifact
from adapass.budgeted import Array, Feeds
from adapass.cli.progress import shown_progress
from adapass.cost.bench import Runnable
from adapass.cost.measure import interleaved
from adapass.data import Dataset, load_data
from adapass.driver.optimize import optimize
from adapass.graph.load import load_model
from adapass.machine import fingerprint
from benchmarks.harness import shared_folder, write_results
from benchmarks.peers import OpenVinoFile, Peer, nncf_peers, onnxruntime_peers

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
TRANSFORMERS = frozenset({"minilm-sst2"})
MAX_DROP = 0.005
THREADS = 2
ROUNDS = 10
TIMED = 256
"""Held-out samples that are timed, evenly spaced."""
SLOW = 3.0
"""Peers slower than this many originals in a first look are left out of the long race, and said so."""
WITHOUT_OTHERS = ("remove-blocks", "insert-exits")
OURS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "adapass 8-bit, onnxruntime": ("onnxruntime", WITHOUT_OTHERS),
    "adapass 8-bit, any generator": ("auto", WITHOUT_OTHERS),
    "adapass, onnxruntime": ("onnxruntime", ()),
    "adapass, any generator": ("auto", ()),
}
"""By name: the backend, and which of the default families are left out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant."""

    name: str
    milliseconds: float = float("nan")
    ratio: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    """95 % interval of the ratio to the original."""
    accuracy: float = float("nan")
    told: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "milliseconds": self.milliseconds,
            "ratio": self.ratio,
            "interval": [self.low, self.high],
            "accuracy": self.accuracy,
            "told": self.told,
        }


def build(name: str, folder: Path, only: Sequence[str], max_drop: float) -> list[Peer]:
    """Everything that can be built and is not there yet."""
    shared = shared_folder()
    model = shared / "models" / f"{name}.onnx"
    fit, held_out = (shared / "data" / f"{DATA[name]}_{part}.npz" for part in ("fit", "eval"))
    listing = folder / "peers.json"
    if not listing.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        data = load_data(fit, load_model(model))
        made = [
            *onnxruntime_peers(model, data, folder),
            *nncf_peers(model, data, folder, transformer=name in TRANSFORMERS),
        ]
        entries = [[p.name, None if p.path is None else p.path.name, p.told] for p in made]
        listing.write_text(json.dumps(entries, indent=1))
    found = [
        Peer(label, None if file is None else folder / file, told)
        for label, file, told in json.loads(listing.read_text())
    ]
    return [
        *found,
        *(_ours(label, model, fit, held_out, folder, max_drop) for label in OURS if label in only),
    ]


def _ours(label: str, model: Path, fit: Path, held_out: Path, folder: Path, max_drop: float) -> Peer:
    backend, skipped = OURS[label]
    plain = label.replace(",", "").replace(" ", "-")
    place = folder / f"{plain}.adapass"
    verdict = place.with_suffix(".json")
    if not verdict.is_file():
        with shown_progress(0) as progress:
            found = optimize(
                model,
                data=fit,
                eval_data=held_out,
                max_drop=max_drop,
                backend=backend,
                skip_passes=skipped,
                threads=THREADS,
                output=place,
                advise=False,
                progress=progress,
            )
        verdict.write_text(json.dumps({"summary": str(found.exit_code.name), "job": found.to_dict()}))
    told = json.loads(verdict.read_text())["summary"]
    return Peer(label, place if place.is_dir() else None, told)


def opened(peer: Path) -> Runnable:
    """A runner for a file or an artifact folder."""
    if peer.is_dir():
        return load_artifact(peer, THREADS)
    if peer.suffix == ".xml":
        return OpenVinoFile(peer, threads=THREADS)
    return PlainRunner(peer, threads=THREADS)


def accuracy(runner: Runnable, data: Dataset) -> float:
    """Share of held-out samples with the right class."""
    assert data.labels is not None
    right = [_logits(runner, data.feeds(i)).argmax() == data.labels[i] for i in range(len(data))]
    return float(np.mean(right))


def _logits(runner: Runnable, feeds: Feeds) -> Array:
    found: Any = runner.run(feeds)  # a mapping, or an outcome with one
    outputs: Mapping[str, Array] = getattr(found, "outputs", found)
    return next(iter(outputs.values()))


def run_model(name: str, folder: Path, only: Sequence[str], seconds: float, max_drop: float) -> list[Row]:
    """Build what is missing, then time everything in turns."""
    model = shared_folder() / "models" / f"{name}.onnx"
    peers = build(name, folder, only, max_drop)
    rows = [Row(peer.name, told=peer.told) for peer in peers if peer.path is None]
    data = load_data(shared_folder() / "data" / f"{DATA[name]}_eval.npz", load_model(model))
    feeds = [data.feeds(i) for i in np.linspace(0, len(data) - 1, TIMED).astype(int)]
    runners = {"original": opened(model)} | {p.name: opened(p.path) for p in peers if p.path is not None}
    told = {peer.name: peer.told for peer in peers}
    try:
        look = interleaved({n: r.run for n, r in runners.items()}, feeds[:16], rounds=2, warmup=2)
        slow = [n for n in runners if look[n].mean > SLOW * look["original"].mean]
        rows += [Row(n, 1e3 * look[n].mean, look[n].mean / look["original"].mean, told="slow") for n in slow]
        racing = {n: r.run for n, r in runners.items() if n not in slow}
        timed = interleaved(racing, feeds, rounds=ROUNDS, warmup=3, max_seconds=seconds)
        for label in racing:
            ratio = timed[label].ratio(timed["original"])
            spread = (ratio.value, ratio.low, ratio.high)
            score = accuracy(runners[label], data)
            rows.append(Row(label, 1e3 * timed[label].mean, *spread, score, told.get(label, "")))
    finally:
        for runner in runners.values():
            runner.close()
    return sorted(rows, key=lambda row: row.ratio if row.ratio == row.ratio else float("inf"))


def table(name: str, rows: Sequence[Row]) -> str:
    lines = [
        name,
        f"{'':34} {'ms':>7} {'ratio':>6} {'95 % interval':>14} {'accuracy':>9}",
        *(
            f"{row.name:34} {row.milliseconds:7.3f} {row.ratio:6.3f}   [{row.low:.3f}-{row.high:.3f}] "
            f"{100 * row.accuracy:9.2f}  {row.told}"
            for row in rows
        ),
    ]
    best = {
        kind: min((r.ratio for r in rows if r.name.startswith(kind) and r.ratio == r.ratio), default=None)
        for kind in ("ort-", "nncf-")
    }
    for row in rows:
        if row.name.startswith("adapass"):
            against = [f"{row.ratio / b:.2f}x of the best {kind[:-1]}" for kind, b in best.items() if b]
            lines.append(f"{row.name}: {', '.join(against)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="8 bits of several tools side by side.")
    parser.add_argument("models", nargs="*", default=list(DATA))
    parser.add_argument("--folder", type=Path, help="where built models are kept")
    parser.add_argument("--ours", nargs="*", choices=list(OURS), default=list(OURS))
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--max-seconds", type=float, default=90.0, help="for the race of one model")
    parser.add_argument("--max-drop", type=float, default=MAX_DROP, help="of ours; a share")
    given = parser.parse_args(arguments)
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.models:
            folder = (given.folder or Path(scratch)) / name
            if given.build_only:
                build(name, folder, given.ours, given.max_drop)
                continue
            found[name] = run_model(name, folder, given.ours, given.max_seconds, given.max_drop)
    if found:
        document = {
            "machine": fingerprint(THREADS).to_json(),
            "max_drop": given.max_drop,
            "models": {name: [row.to_json() for row in rows] for name, rows in found.items()},
        }
        name = "eight_bit" if given.max_drop == MAX_DROP else f"eight_bit_{given.max_drop:g}"
        write_results(name, document, "\n\n".join(table(name, rows) for name, rows in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
