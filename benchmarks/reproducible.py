"""One result however it comes about: repeated, on other workers, on a Dask cluster, killed and resumed.

    python -m benchmarks.reproducible [--model minilm-sst2] [--mode default] [--kill-after 60] [--limit 120]

The first run measures and saves a latency table; all others replay it and must end with the same content
hash. Last, without the table, a run under ``--time-limit``: how long it takes, and what it leaves.
Writes benchmarks/results/reproducible.json.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapass.artifact import read_artifact
from adapass.machine import fingerprint
from benchmarks.harness import shared_folder, write_results

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10", "resnet20-cifar10": "cifar10"}
THREADS = 2
MAX_DROP = 0.02
RUNS = ("replayed", "one-worker", "killed-and-resumed", "dask", "dask-worker-killed")
SLACK = 1.05
"""How far a run may exceed its time limit."""


@dataclass
class Bench:
    """Runs of one command, and what came of them."""

    model: str
    mode: str
    folder: Path
    rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def command(self, name: str, *options: str, replay: bool = True) -> list[str]:
        shared = shared_folder()
        fit, held_out = (shared / "data" / f"{DATA[self.model]}_{part}.npz" for part in ("fit", "eval"))
        table = ["--deterministic", "--latency-table", str(self.folder / "table.json")]
        given = {"--data": fit, "--eval": held_out, "--max-drop": MAX_DROP, "--threads": THREADS}
        flat = [str(part) for pair in given.items() for part in pair]
        model = str(shared / "models" / f"{self.model}.onnx")
        return [
            *(sys.executable, "-c", "from adapass.cli.main import main; main()", "optimize", model, *flat),
            *("--mode", self.mode, "--quiet", "-o", str(self.folder / f"{name}.adapass")),
            *(table if replay else []),
            *options,
        ]

    def run(self, name: str, *options: str, replay: bool = True) -> dict[str, object]:
        """Run to the end and note what came of it."""
        started = time.monotonic()
        done = subprocess.run(self.command(name, *options, replay=replay), check=False, capture_output=True)
        return self.note(name, done.returncode, time.monotonic() - started)

    def run_killed(self, name: str, after: float) -> dict[str, object]:
        """Kill the run (and its workers with it) in the middle, then resume it."""
        process = subprocess.Popen(
            self.command(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(after)
        unfinished = process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = self.run(name, "--resume")
        found["killed_in_the_middle"] = unfinished
        return found

    def run_on_cluster(self, name: str, *, kill_after: float | None) -> dict[str, object]:
        """Two Dask workers; one of them is killed in the middle where asked for."""
        import distributed

        untyped: Any = distributed
        with untyped.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster:
            pids = [worker.pid for worker in cluster.workers.values()]
            if kill_after is not None:
                threading.Timer(kill_after, os.kill, (pids[0], signal.SIGKILL)).start()
            found = self.run(name, "--scheduler", cluster.scheduler_address)
            after = [worker.pid for worker in cluster.workers.values()]
            found["a_worker_was_killed"] = pids != after
        return found

    def note(self, name: str, code: int, seconds: float) -> dict[str, object]:
        manifest = read_artifact(self.folder / f"{name}.adapass").manifest
        row: dict[str, object] = {
            "run": name,
            "exit_code": code,
            "seconds": round(seconds, 1),
            "kind": str(manifest.kind),
            "certified": manifest.certificate is not None,
            "hash": manifest.content_hash,
        }
        self.rows.append(row)
        print(*row.values(), flush=True)
        return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The same result however it comes about.")
    parser.add_argument("--model", choices=[*DATA], default="minilm-sst2")
    parser.add_argument("--mode", default="default")
    parser.add_argument("--kill-after", type=float, default=60.0)
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--skip", choices=RUNS, action="append", default=[], help="may be repeated")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(given.model, given.mode, Path(name))
        runs: dict[str, Callable[[str], object]] = {
            "replayed": bench.run,
            "one-worker": lambda run: bench.run(run, "--workers", "1"),
            "killed-and-resumed": lambda run: bench.run_killed(run, given.kill_after),
            "dask": lambda run: bench.run_on_cluster(run, kill_after=None),
            "dask-worker-killed": lambda run: bench.run_on_cluster(run, kill_after=given.kill_after / 2),
        }
        bench.run("measured")
        for run, work in runs.items():
            if run not in given.skip:
                work(run)
        replayed = list(bench.rows)
        limited = bench.run("limited", "--time-limit", f"{given.limit}s", replay=False)
    hashes = {str(row["hash"]) for row in replayed}
    seconds = float(str(limited["seconds"]))
    lines = [
        f"{row['run']:22} {row['seconds']:>7} s  exit {row['exit_code']}  {row['kind']}  "
        f"{str(row['hash'])[:16]}"
        for row in bench.rows
    ]
    verdict = f"{len(replayed)} runs, {len(hashes)} hash; limit {given.limit} s: {seconds} s"
    document = {
        "model": given.model,
        "mode": given.mode,
        "machine": fingerprint(THREADS).to_json(),
        "runs": bench.rows,
        "distinct_hashes": len(hashes),
        "limit_seconds": given.limit,
        "limit_kept": seconds <= SLACK * given.limit,
    }
    write_results("reproducible", document, "\n".join([*lines, verdict]))
    return 0 if len(hashes) == 1 and seconds <= SLACK * given.limit else 1


if __name__ == "__main__":
    sys.exit(main())
