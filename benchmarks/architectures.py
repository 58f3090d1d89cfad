"""Cut every prunable group of many architectures by 30 %, and look whether the models still hold.

    python -m benchmarks.architectures --cache FOLDER [NAME ...]

Each architecture is exported (once: ``--cache`` keeps the files), cleaned, cut and judged in a process of
its own with a memory and a time limit; see ``tests/coupling/zoo/judge.py`` for what is checked. Writes
benchmarks/results/architectures.{json,txt} and docs/architectures.md when all of them were asked for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.architectures_table import page, table
from benchmarks.harness import ROOT, write_results

DOCS = ROOT / "docs" / "architectures.md"
GIGABYTE = 1 << 30
Row = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Judge coupled dimensions on many architectures.")
    parser.add_argument("names", nargs="*", help="architectures; all of them unless given")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the exported models")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of one architecture")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of its address space")
    parser.add_argument("--alone", action="store_true", help="judge one, here, and print what was found")
    chosen = parser.parse_args(arguments)
    if chosen.alone:
        sys.stdout.write(json.dumps(judged(chosen.names[0], chosen.cache)) + "\n")
        return 0
    rows = [
        _in_a_process(name, family, chosen.cache, chosen.seconds, chosen.gigabytes)
        for family, names in _families().items()
        for name in names
        if not chosen.names or name in chosen.names
    ]
    if chosen.names:
        sys.stdout.write(table(rows) + "\n")
    else:
        write_results("architectures", {"rows": rows}, table(rows))
        DOCS.write_text(page(rows), encoding="utf-8")
    return 1 if any(row["problems"] for row in rows) else 0


def _families() -> Mapping[str, tuple[str, ...]]:
    from tests.coupling.zoo.specimen import families

    return families()


def judged(name: str, cache: Path) -> dict[str, object]:
    """What was found of one architecture, in this process."""
    from tests.coupling.zoo.export import ExportFailedError
    from tests.coupling.zoo.judge import judge
    from tests.coupling.zoo.specimen import specimen

    try:
        found = specimen(name, cache)
    except ExportFailedError as error:
        return {"problems": [f"cannot be exported: {error}"]}
    verdict = asdict(judge(found.model, found.feeds))
    sizes = [{key: list(array.shape) for key, array in feed.items()} for feed in found.feeds]
    return {**verdict, "dynamic": found.dynamic, "notes": found.notes, "inputs": sizes}


def _in_a_process(name: str, family: str, cache: Path, seconds: float, gigabytes: float) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.architectures", name, "--alone", "--cache", str(cache)]
    limit = int(gigabytes * GIGABYTE)
    started = time.monotonic()
    row: dict[str, object] = {"name": name, "family": family}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
    except subprocess.TimeoutExpired:
        return {**row, "problems": [f"not done within {seconds:.0f} seconds"]}
    try:
        row |= json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        row["problems"] = [f"died: {lines[-1][:300]}"]
    row["seconds"] = round(time.monotonic() - started, 1)
    sys.stderr.write(f"{name}: {row['seconds']} s, {row['problems'] or 'holds'}\n")
    return row


if __name__ == "__main__":
    raise SystemExit(main())
