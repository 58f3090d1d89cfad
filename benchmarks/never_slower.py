"""Whole runs on random small models: no result may be slower than its original by more than noise.

    python -m benchmarks.never_slower [--models 30] [--first-seed 0]

Each of ``benchmarks/small_models.py`` goes through ``adapass optimize --mode quick --max-drop 0.02`` with
data; what is handed out (an optimized artifact, or the original) is timed against the original afterwards, in
turns, on fresh inputs. A result counts as slower when the whole 95 % interval of the ratio lies above 1.
What the report says of products that stayed in float is kept in the JSON file.

Writes benchmarks/results/never_slower.{json,txt}. Needs an idle machine; about 10 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adapass.artifact.plain import PlainRunner
from adapass.artifact.runtime import load_artifact
from adapass.cost.measure import interleaved
from adapass.data import load_data
from adapass.driver.optimize import optimize
from adapass.graph.load import load_model
from adapass.machine import fingerprint
from adapass.search.judge import predict
from benchmarks.harness import write_results
from benchmarks.small_models import KINDS, random_inputs, random_model

THREADS = 2
FIT, EVAL, TIMED = 512, 3000, 64
MAX_DROP = 0.02
ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One model."""

    seed: int
    kind: str
    outcome: str
    ratio: float
    low: float
    high: float
    plan: str
    stayed: tuple[str, ...]
    """What the report says of sites that stayed as they were."""

    @property
    def is_slower(self) -> bool:
        return self.low > 1.0


def run_one(seed: int, folder: Path) -> Row:
    """Optimize the model of ``seed``, then time what came out."""
    proto, shape = random_model(seed)
    model, artifact = folder / "model.onnx", folder / "out.adapass"
    model.write_bytes(proto.SerializeToString())
    files = {name: folder / f"{name}.npz" for name in ("fit", "eval")}
    loaded = load_model(model)
    for offset, (name, count) in enumerate((("fit", FIT), ("eval", EVAL))):
        inputs = random_inputs(shape, count, 1000 * seed + offset)
        answers = predict(loaded, load_data({"x": inputs}, loaded), threads=THREADS).argmax(1)
        np.savez(files[name], x=inputs, labels=answers)
    result = optimize(
        model,
        data=files["fit"],
        eval_data=files["eval"],
        max_drop=MAX_DROP,
        mode="quick",
        threads=THREADS,
        output=artifact,
        advise=False,
    )
    feeds = [{"x": row[None]} for row in random_inputs(shape, TIMED, 1000 * seed + 7)]
    original, made = PlainRunner(model, threads=THREADS), load_artifact(artifact, THREADS)
    try:
        timed = interleaved({"original": original.run, "result": made.run}, feeds, rounds=ROUNDS, warmup=3)
    finally:
        original.close()
        made.close()
    ratio = timed["result"].ratio(timed["original"])
    stayed = tuple(
        m for m in result.report.messages if " sites; as it was stays " in m or "does not apply" in m
    )
    plan = str(result.recipe.get("families", ""))[:300]
    outcome = result.exit_code.name if not result.reason else f"{result.exit_code.name}: {result.reason}"
    return Row(seed, KINDS[seed % len(KINDS)], outcome, ratio.value, ratio.low, ratio.high, plan, stayed)


def main() -> int:
    parser = argparse.ArgumentParser(description="No result is slower than its original.")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    rows: list[Row] = []
    for seed in range(given.first_seed, given.first_seed + given.models):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run_one(seed, Path(folder)))
        sys.stderr.write(f"{_line(rows[-1])}\n")
    slower = [row for row in rows if row.is_slower]
    handed_back = [row for row in rows if not row.outcome.startswith("OK")]
    summary = (
        f"{len(rows)} models: {len(slower)} slower than their original by more than noise, "
        f"{len(handed_back)} handed back, median ratio {statistics.median(row.ratio for row in rows):.3f}, "
        f"worst {max(row.ratio for row in rows):.3f}"
    )
    document = {
        "machine": fingerprint(THREADS).to_json(),
        "max_drop": MAX_DROP,
        "rows": [asdict(row) for row in rows],
        "slower": len(slower),
    }
    write_results("never_slower", document, "\n".join([*map(_line, rows), summary]))
    return 1 if slower else 0


def _line(row: Row) -> str:
    return (
        f"{row.seed:3} {row.kind:14} {row.ratio:6.3f}x [{row.low:.3f}-{row.high:.3f}] "
        f"{'SLOWER ' if row.is_slower else ''}{row.outcome[:110]}"
    )


if __name__ == "__main__":
    sys.exit(main())
