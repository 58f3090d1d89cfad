"""Interrupt the main job at random moments: never a broken artifact, and --resume goes on.

    python -m benchmarks.interrupts [50]

Runs the demo job in a process of its own, sends SIGINT or SIGKILL after a random time, looks at what is
there, and at the end resumes. Prints a line a run and writes benchmarks/results/interrupts.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from adapass.artifact.read import read_artifact
from adapass.errors import ArtifactError
from benchmarks.harness import RESULTS


def command(folder: Path) -> list[str]:
    assets = Path(str(files("adapass") / "assets"))
    return [
        *(sys.executable, "-c", "from adapass.cli.main import main; main()", "optimize"),
        *(str(assets / "demo.onnx"), "--mode", "quick"),
        *(
            "--data",
            str(assets / "demo_fit.npz"),
            "--eval",
            str(assets / "demo_eval.npz"),
            "--max-drop",
            "0.02",
        ),
        *("--output", str(folder / "demo.adapass"), "--resume", "-q"),
    ]


def whole_or_absent(artifact: Path) -> str:
    if not artifact.exists():
        return "absent"
    try:
        read_artifact(artifact)
    except ArtifactError as error:
        return f"BROKEN: {error}"
    return "whole"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    # A shell that starts this in the background has it ignore SIGINT, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(0)
    seen: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "ADAPASS_CACHE": str(folder / "cache")}
        started = time.perf_counter()
        subprocess.run(command(folder), env=environment, check=True, capture_output=True)
        whole_seconds = time.perf_counter() - started
        for number in range(runs):
            wanted = signal.SIGINT if number % 2 else signal.SIGKILL
            wait = chance.uniform(0.05, 1.0) * min(whole_seconds, 8.0)
            process = subprocess.Popen(command(folder), env=environment, stderr=subprocess.PIPE)
            try:
                process.wait(timeout=wait)
            except subprocess.TimeoutExpired:
                process.send_signal(wanted)
            process.communicate()
            state = whole_or_absent(folder / "demo.adapass")
            seen.append(
                {"signal": wanted.name, "after_seconds": wait, "code": process.returncode, "artifact": state}
            )
            print(number, wanted.name, f"{wait:.2f} s", process.returncode, state, flush=True)
        done = subprocess.run(command(folder), env=environment, check=False, capture_output=True)
        final = whole_or_absent(folder / "demo.adapass")
    broken = sum(str(entry["artifact"]).startswith("BROKEN") for entry in seen)
    summary = {
        "runs": runs,
        "broken": broken,
        "resumed_exit_code": done.returncode,
        "final": final,
        "seen": seen,
    }
    (RESULTS / "interrupts.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"{runs} interruptions, {broken} broken artifacts, resumed: exit {done.returncode}, artifact {final}"
    )


if __name__ == "__main__":
    main()
