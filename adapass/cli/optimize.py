"""`adapass optimize`: the main job."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from adapass.cli import optimize_options as option
from adapass.cli.options import (
    AllowCode,
    Json,
    Model,
    Quiet,
    Seed,
    Threads,
    Verbose,
    seconds,
    size_bytes,
    words,
)
from adapass.cli.output import print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from adapass.driver.report import Result


def optimize(
    model: Model,
    output: option.Output = None,
    target: option.Target = "cpu",
    backend: option.Backend = "auto",
    data: option.FitData = None,
    evaluation: option.EvalData = None,
    max_drop: option.MaxDrop = 0.01,
    confidence: option.Confidence = 0.95,
    metric: option.Metric = "auto",
    latency_target: option.LatencyTarget = None,
    max_size: option.MaxSize = None,
    mode: option.HowMuch = option.Mode.DEFAULT,
    time_limit: option.TimeLimit = None,
    heal: option.HealTime = None,
    threads: Threads = None,
    batch: option.Batch = 1,
    passes: option.Passes = None,
    skip_passes: option.SkipPasses = None,
    recipe: option.Recipe = None,
    seed: Seed = 0,
    resume: option.Resume = False,
    workers: option.Workers = None,
    scheduler: option.Scheduler = None,
    deterministic: option.Deterministic = False,
    latency_table: option.LatencyTable = None,
    advise: option.Advise = True,
    dry_run: option.DryRun = False,
    explain: option.Explain = False,
    as_json: Json = False,
    allow_uncertified: option.AllowUncertified = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Make a model faster on a target within a certified budget, or hand it back with the reason."""
    del verbose
    from adapass.cli.progress import shown_progress
    from adapass.driver.optimize import optimize as run_optimize

    with _resumable(), shown_progress(quiet) as progress:
        result = run_optimize(
            model,
            target=target,
            data=data,
            eval_data=evaluation,
            max_drop=max_drop,
            confidence=confidence,
            metric=metric,
            backend=backend,
            latency_target_seconds=seconds(latency_target, "--latency-target"),
            mode=mode,
            time_limit_seconds=seconds(time_limit, "--time-limit"),
            heal_seconds=seconds(heal, "--heal"),
            threads=threads,
            batch=batch,
            passes=passes,
            skip_passes=words(skip_passes),
            recipe=recipe,
            seed=seed,
            output=output,
            resume=resume,
            max_size_bytes=None if max_size is None else size_bytes(max_size, "--max-size"),
            workers=workers,
            scheduler=scheduler,
            deterministic=deterministic,
            latency_table=latency_table,
            advise=advise,
            dry_run=dry_run,
            allow_uncertified=allow_uncertified,
            allow_code=allow_code,
            progress=progress,
        )
    finish(result, as_json=as_json, explain=explain)


@contextmanager
def _resumable() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print_note("the same command with --resume goes on from here")
        raise


def finish(result: Result, *, as_json: bool, explain: bool) -> None:
    """Print the outcome on stdout, why the original came back on stderr, and leave with the exit code."""
    if result.reason:
        print_note(result.reason)
    if as_json:
        print_json(result.to_dict())
    else:
        _print_result(result, explain=explain)
    raise typer.Exit(int(result.exit_code))


def _print_result(result: Result, *, explain: bool) -> None:
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
