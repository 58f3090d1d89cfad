"""What every benchmark shares: the side-by-side run, and results as JSON and as a text table.

A benchmark is a script run from the repository root with ``python -m benchmarks.NAME``. It leaves
``benchmarks/results/NAME.json`` (everything) and ``NAME.txt`` (what to read), both with the threads, batch
sizes, machine and library versions they were taken with. Run alone, this file benches any models:

    python -m benchmarks.harness NAME baseline.onnx new.adapass --data data.npz --threads 1 2 --batches 1 32
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapass.cost.bench import BenchResult, Settings, bench, table
from adapass.data import load_data
from adapass.errors import AdapassError
from adapass.graph.load import load_model
from adapass.machine import Fingerprint

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def shared_folder() -> Path:
    """The folder with the trained models and data: ``$ADAPASS_SHARED`` or ``../shared``."""
    return Path(os.environ.get("ADAPASS_SHARED", ROOT.parent / "shared"))


def side_by_side(
    name: str,
    baseline: Path,
    others: Sequence[Path],
    data: Path,
    settings: Settings,
    *,
    folder: Path = RESULTS,
) -> BenchResult:
    """Bench ``others`` against ``baseline`` on ``data`` and write the results under ``name``."""
    samples = load_data(data, load_model(baseline))
    result = bench(baseline, others, samples, settings)
    write_results(
        name, result.to_json(), f"{heading(name, result.machine, settings)}\n\n{table(result)}", folder=folder
    )
    return result


def heading(name: str, machine: Fingerprint, settings: Settings) -> str:
    """The circumstances in a few lines, for the top of a table."""
    versions = ", ".join(f"{library} {version}" for library, version in machine.versions.items())
    settled = settings.to_json()
    return "\n".join(
        [
            name,
            f"machine   {machine.processor}, {machine.cores} cores, governor {machine.governor or 'unknown'}",
            f"software  {platform.system()}, Python {platform.python_version()}, {versions}",
            f"settings  {', '.join(f'{key} {value}' for key, value in settled.items())}",
            f"key       {machine.key}",
        ]
    )


def write_results(name: str, result: Mapping[str, object], text: str, *, folder: Path = RESULTS) -> None:
    """Write ``NAME.json`` and ``NAME.txt`` and show the text."""
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"name": name, **result}, indent=1, sort_keys=True)
    (folder / f"{name}.json").write_text(document + "\n", encoding="utf-8")
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bench models side by side.")
    parser.add_argument("name", help="of the result files")
    parser.add_argument("baseline", type=Path, help="an ONNX file")
    parser.add_argument("others", type=Path, nargs="*", help="ONNX files or artifact folders")
    parser.add_argument("--data", type=Path, required=True, help="an .npz with the model's inputs")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--samples", type=int, default=Settings().samples)
    parser.add_argument("--rounds", type=int, default=Settings().rounds)
    parser.add_argument("--max-seconds", type=float, default=None)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args(arguments)
    try:
        settings = Settings(
            threads=tuple(given.threads),
            batches=tuple(given.batches),
            samples=given.samples,
            rounds=given.rounds,
            max_seconds=given.max_seconds,
        )
        side_by_side(given.name, given.baseline, given.others, given.data, settings, folder=given.folder)
    except AdapassError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
