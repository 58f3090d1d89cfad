"""`adapass optimize`: the main job."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import AllowCode, Json, Model, Quiet, Seed, Threads, Verbose, seconds, words
from adapass.cli.output import print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from adapass.driver.report import Result


class Mode(StrEnum):
    """How long the search may take."""

    QUICK = "quick"
    DEFAULT = "default"
    EXTENSIVE = "extensive"


def optimize(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the artifact.", show_default="MODEL.adapass"),
    ] = None,
    target: Annotated[str, typer.Option(help="Name or TOML file; see `adapass targets list`.")] = "cpu",
    backend: Annotated[
        str, typer.Option(help="Code generator, or 'auto' for the fastest measured one.")
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Data to fit on: an .npz file with arrays named like the model's inputs (and 'labels' where "
            "known), a folder of such files, or package.module:function with --allow-code.",
            show_default="none: only exact changes",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="PATH",
            help="Data to search and certify on, like --data.",
            show_default="a part of --data, split by content",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Largest drop in quality to accept, as a share: 0.01 is one point.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the certificate.")] = 0.95,
    metric: Annotated[
        str, typer.Option(help="Quality metric; 'auto' takes what fits the outputs and the labels.")
    ] = "auto",
    latency_target: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Stop at this latency per batch, for example 3ms.", show_default="none"
        ),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="How much to try.")] = Mode.DEFAULT,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Stop the search after this time, for example 10m.", show_default="none"
        ),
    ] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size to optimize and measure for.")] = 1,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE", help="Passes to use instead of the default ones.", show_default="default"
        ),
    ] = None,
    skip_passes: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="Passes to leave out, separated by commas.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Repeat the decisions of this recipe.yaml instead of searching.")
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan and say what would be done; write nothing.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print the plans that were tried and the recipe.")
    ] = False,
    as_json: Json = False,
    allow_uncertified: Annotated[
        bool,
        typer.Option(
            "--allow-uncertified", help="Accept a result without a certificate; the manifest says so."
        ),
    ] = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Make a model faster on a target within a certified budget, or hand it back with the reason."""
    del verbose
    from adapass.cli.progress import shown_progress
    from adapass.driver.optimize import optimize as run_optimize

    latency_target_seconds = seconds(latency_target, "--latency-target")
    time_limit_seconds = seconds(time_limit, "--time-limit")
    try:
        with shown_progress(quiet) as progress:
            result = run_optimize(
                model,
                target=target,
                data=data,
                eval_data=evaluation,
                max_drop=max_drop,
                confidence=confidence,
                metric=metric,
                backend=backend,
                latency_target_seconds=latency_target_seconds,
                mode=mode,
                time_limit_seconds=time_limit_seconds,
                threads=threads,
                batch=batch,
                passes=passes,
                skip_passes=words(skip_passes),
                recipe=recipe,
                seed=seed,
                output=output,
                resume=resume,
                dry_run=dry_run,
                allow_uncertified=allow_uncertified,
                allow_code=allow_code,
                progress=progress,
            )
    except KeyboardInterrupt:
        print_note("the same command with --resume goes on from here")
        raise
    show_result(result, as_json=as_json, explain=explain)
    raise typer.Exit(int(result.exit_code))


def show_result(result: Result, *, as_json: bool, explain: bool) -> None:
    """The outcome on stdout; why the original came back, where it did, on stderr."""
    if result.reason:
        print_note(result.reason)
    if as_json:
        print_json(result.to_dict())
        return
    rows = [(row.what, row.before, row.after, row.note) for row in result.report.rows]
    if rows:
        print_table(("", "before", "after", ""), rows)
    for message in result.report.messages:
        print_line(message)
    if explain:
        _print_plans(result)
    if result.artifact is not None:
        print_line(f"artifact: {result.artifact}")


def _print_plans(result: Result) -> None:
    from adapass.artifact.recipe_file import recipe_to_text

    if result.pareto:
        head = tuple(dict.fromkeys(key for point in result.pareto for key in point))
        rows = [tuple(_cell(point.get(key)) for key in head) for point in result.pareto]
        print_table(head, rows, title="plans tried")
    print_line("recipe:")
    print_line(recipe_to_text(result.recipe))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
