"""`adapass bisect`: find the pass that breaks a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, Model, Quiet, Seed, Verbose
from adapass.cli.output import print_json, print_line
from adapass.errors import ExitCode


def bisect(
    model: Model,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE", help="The pipeline to search.", show_default="the default clean passes"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the reproducer.", show_default="bisect-MODEL"),
    ] = None,
    data: Data = None,
    seed: Seed = 0,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Find the first pass and site that break a model, and write a reproducer; exit code 4 when found."""
    del verbose
    from adapass.bisection import bisect as run_bisect
    from adapass.cli.progress import shown_progress
    from adapass.data import load_data
    from adapass.defaults import CLEAN
    from adapass.graph.load import load_model
    from adapass.pipeline import Pipeline

    loaded = load_model(model)
    pipeline = Pipeline.parse(",".join(CLEAN) if passes is None else passes)
    samples = None if data is None else load_data(data, loaded, allow_code=allow_code)
    with shown_progress(quiet) as progress:
        guilty = run_bisect(loaded, pipeline, data=samples, progress=progress, seed=seed)
    if guilty is None:
        found: dict[str, object] = {"guilty": None, "passes": len(pipeline.passes)}
        print_json(found) if as_json else print_line(f"all {len(pipeline.passes)} passes keep their word")
        return
    folder = output or Path(f"bisect-{model.stem}")
    guilty.write(folder)
    if as_json:
        facts = {"guilty": str(guilty.step), "number": guilty.index + 1, "site": guilty.site}
        print_json({**facts, "why": guilty.why, "reproducer": str(folder)})
    else:
        print_line(f"pass {guilty.index + 1} of {len(pipeline.passes)}: {guilty.step}")
        print_line(f"site: {guilty.site or 'not tied to one site'}")
        print_line(f"why: {guilty.why}")
        print_line(f"reproducer: {folder}")
    raise typer.Exit(int(ExitCode.VERIFICATION_FAILED))
