"""Cut every prunable group of many architectures by 30 %, and look whether the models still hold.

    python -m benchmarks.architectures --cache FOLDER [--resume] [NAME ...]

Each architecture is exported (once: ``--cache`` keeps the files), cleaned, cut and judged in a process of
its own with a memory and a time limit; see ``tests/coupling/zoo/judge.py`` for what is checked. Writes
benchmarks/results/architectures.{json,txt} and docs/architectures.md when all of them were asked for.
``--resume`` takes what an interrupted run has found and is still of the same ``adapass.coupling``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.architectures_table import page, table
from benchmarks.harness import ROOT, write_results
from tests.coupling.zoo.export import ExportFailedError
from tests.coupling.zoo.judge import judge
from tests.coupling.zoo.specimen import families, specimen

DOCS = ROOT / "docs" / "architectures.md"
GIGABYTE = 1 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Judge coupled dimensions on many architectures.")
    parser.add_argument("names", nargs="*", help="architectures; all of them unless given")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the exported models")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of one architecture")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of its address space")
    parser.add_argument("--resume", action="store_true", help="judge only what has no result yet")
    parser.add_argument("--collect", action="store_true", help="judge nothing, write what was found so far")
    chosen = parser.parse_args(arguments)
    folder = chosen.cache / f"found-{_source()}"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Mapping[str, object]] = []
    for family, names in families().items():
        for name in names:
            if chosen.names and name not in chosen.names:
                continue
            file = folder / f"{name}.json"
            if chosen.collect and not file.is_file():
                rows.append({"name": name, "family": family, "problems": ["not judged yet"]})
                continue
            if not (chosen.resume or chosen.collect) or not file.is_file():
                _in_a_process(name, chosen.cache, file, chosen.seconds, chosen.gigabytes)
            rows.append({"name": name, "family": family, **json.loads(file.read_text("utf-8"))})
    if chosen.names:
        sys.stdout.write(table(rows) + "\n")
    else:
        write_results("architectures", {"rows": rows}, table(rows))
        DOCS.write_text(page(rows), encoding="utf-8")
    return 1 if any(row["problems"] for row in rows) else 0


def judged(name: str, cache: Path) -> dict[str, object]:
    """What was found of one architecture, in this process."""
    try:
        found = specimen(name, cache)
    except ExportFailedError as error:
        return {"problems": [f"cannot be exported: {error}"]}
    verdict = asdict(judge(found.model, found.feeds))
    sizes = [{key: list(array.shape) for key, array in feed.items()} for feed in found.feeds]
    return {**verdict, "source": _source(), "dynamic": found.dynamic, "notes": found.notes, "inputs": sizes}


def _in_a_process(name: str, cache: Path, file: Path, seconds: float, gigabytes: float) -> None:
    """Leave the row of ``name`` in ``file``, also when its process dies or takes too long."""
    file.unlink(missing_ok=True)
    started = time.monotonic()
    # Forked, not spawned: importing torch takes longer than judging.
    process = multiprocessing.get_context("fork").Process(target=_work, args=(name, cache, file, gigabytes))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        _write(file, {"problems": [f"not done within {seconds:.0f} seconds"]})
    elif not file.is_file():
        _write(file, {"problems": [f"died with exit code {process.exitcode}"]})
    row = json.loads(file.read_text("utf-8"))
    _write(file, {**row, "seconds": round(time.monotonic() - started, 1)})
    sys.stderr.write(f"{name}: {time.monotonic() - started:.1f} s, {row['problems'] or 'holds'}\n")


def _work(name: str, cache: Path, file: Path, gigabytes: float) -> None:
    limit = int(gigabytes * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        row = judged(name, cache)
    except Exception as error:  # whatever a defect raises is the finding
        traceback.print_exc()
        row = {"problems": [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]}
    _write(file, row)


def _write(file: Path, row: Mapping[str, object]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(row), encoding="utf-8")
    part.rename(file)


def _source() -> str:
    """Changes with the code that is judged."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted((ROOT / "adapass" / "coupling").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
