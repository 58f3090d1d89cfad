"""`adapass bench`: time models against each other, in turns, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, PointName, Quiet, Seed, Verbose, numbers, seconds
from adapass.cli.output import print_json, print_line
from adapass.errors import UsageError

if TYPE_CHECKING:
    from adapass.artifact.runtime import LoadedArtifact
    from adapass.cost.bench import Runnable

GENERATED = 32
"""Generated samples to time with, where the largest batch does not need more."""


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(help="ONNX files and artifacts; the first is what the others are compared with."),
    ],
    point: PointName = None,
    data: Data = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS", help="Threads to try, such as 1,2.", show_default="all cores of this process"
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="NUMBERS", help="Batch sizes to try, such as 1,8,32.")] = "1",
    samples: Annotated[int, typer.Option(min=1, help="Samples to time with, spread over the data.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="How often every input is timed.")] = 6,
    time_limit: Annotated[
        str, typer.Option(metavar="TIME", help="Stop timing after this time; a note says what was left out.")
    ] = "2m",
    seed: Seed = 0,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure latency percentiles and throughput of models and artifacts, in turns, on the same inputs."""
    del verbose
    from adapass.artifact.runtime import load_artifact, usable_threads
    from adapass.cli.feeds import samples_for
    from adapass.cli.progress import shown_progress
    from adapass.cost.bench import Settings, open_path, table
    from adapass.cost.bench import bench as run_bench

    if point is not None and not any(path.is_dir() for path in models):
        raise UsageError("--point is a point of an artifact; no artifact was given")

    def opened(path: Path, budget: int) -> LoadedArtifact | Runnable:
        return load_artifact(path, budget, point=point) if path.is_dir() else open_path(path, budget)

    settings = Settings(
        threads=(usable_threads(),) if threads is None else numbers(threads, "--threads"),
        batches=numbers(batch, "--batch"),
        rounds=rounds,
        samples=samples,
        max_seconds=seconds(time_limit, "--time-limit"),
    )
    enough = max(GENERATED, *settings.batches)
    inputs = samples_for(models[0], data, seed=seed, allow_code=allow_code, generated=enough)
    with shown_progress(quiet) as progress:
        result = run_bench(models[0], models[1:], inputs, settings, progress=progress, opener=opened)
    if as_json:
        print_json({"inputs": "generated" if data is None else data, **result.to_json()})
        return
    print_line(table(result))
    if data is None:
        print_line("note: inputs were generated; give --data, how early samples exit depends on them")
