"""`adapass demo`: the main job on a small model that ships with adapass."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from adapass.cli.options import Json, Quiet, Threads, Verbose
from adapass.cli.output import print_note
from adapass.errors import UsageError

ASSETS = ("demo.onnx", "demo_fit.npz", "demo_eval.npz")
MAX_DROP = 0.02


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the artifact.")] = Path(
        "demo.adapass"
    ),
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Optimize a small trained model that ships with adapass: no network, no torch, a few minutes at most."""
    del verbose
    from adapass.cli.optimize import finish
    from adapass.cli.progress import shown_progress
    from adapass.driver.optimize import optimize

    with as_file(files("adapass") / "assets") as assets:
        model, fit, evaluation = (assets / name for name in ASSETS)
        if not model.is_file():
            raise UsageError(f"{model} is not installed; install adapass from a wheel or a full checkout")
        if not quiet:
            shown = f"adapass optimize {model} --data {fit} --eval {evaluation} --max-drop {MAX_DROP}"
            print_note(f"this runs: {shown} --mode quick")
        with shown_progress(quiet) as progress:
            result = optimize(
                model,
                data=fit,
                eval_data=evaluation,
                max_drop=MAX_DROP,
                mode="quick",
                threads=threads,
                output=output,
                progress=progress,
            )
    finish(result, as_json=as_json, explain=False)
