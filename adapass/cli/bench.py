"""`adapass bench`: time models against each other, in turns, in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, Quiet, Seed, Verbose, numbers
from adapass.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from adapass.budgeted import Array, Feeds
    from adapass.cost.measure import Timing

HEAD = (
    "threads",
    "batch",
    "model",
    "mean ms",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "samples/s",
    "time ratio",
    "95 % interval",
)


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(help="ONNX files and artifacts; the first is what the others are compared with."),
    ],
    data: Data = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS", help="Threads to try, such as 1,2.", show_default="all cores of this process"
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="NUMBERS", help="Batch sizes to try, such as 1,8,32.")] = "1",
    samples: Annotated[int, typer.Option(min=1, help="Inputs to time with, per batch size.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often every input is timed.")] = 8,
    seed: Seed = 0,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure latency percentiles and throughput of models and artifacts, taking turns on the same inputs."""
    del verbose
    from adapass.artifact.runtime import usable_threads
    from adapass.cli.feeds import feeds_for
    from adapass.cli.progress import shown_progress

    batches = numbers(batch, "--batch")
    budgets = numbers(threads, "--threads") if threads is not None else (usable_threads(),)
    results: list[dict[str, object]] = []
    with shown_progress(quiet) as progress:
        for size in batches:
            feeds = feeds_for(models[0], data, batch=size, count=samples, seed=seed, allow_code=allow_code)
            for budget in budgets:
                progress.phase(
                    f"batch {size}, {budget} threads", len(results) + 1, len(batches) * len(budgets)
                )
                timings = _time(models, feeds, threads=budget, rounds=rounds)
                results.append({"threads": budget, "batch": size, "models": _rows(timings)})
    if as_json:
        print_json({"inputs": "generated" if data is None else data, "results": results})
        return
    _print(results)
    if data is None:
        print_line("inputs were generated; give --data to measure on real ones (exits depend on them)")


def _time(
    models: Sequence[Path], feeds: Sequence[Feeds], *, threads: int, rounds: int
) -> Mapping[str, Timing]:
    from adapass.cli.contestants import Runnable
    from adapass.cost.measure import interleaved

    names = _names(models)
    runners: dict[str, Runnable] = {}
    try:
        for name, path in zip(names, models, strict=True):
            runners[name] = Runnable(path, threads)
        sizes = [_batch_of(feed) for feed in feeds]
        contestants = {name: runner.run for name, runner in runners.items()}
        return interleaved(contestants, feeds, rounds=rounds, warmup=3, batch_sizes=sizes)
    finally:
        for runner in runners.values():
            runner.close()


def _names(models: Sequence[Path]) -> list[str]:
    """Short names that tell the models apart: paths where file names are equal, numbered where paths are."""
    short = [path.name if [p.name for p in models].count(path.name) == 1 else str(path) for path in models]
    return [
        f"{name} ({short[: k + 1].count(name)})" if short.count(name) > 1 else name
        for k, name in enumerate(short)
    ]


def _batch_of(feed: Mapping[str, Array]) -> int:
    return next((array.shape[0] for array in feed.values() if array.ndim), 1)


def _rows(timings: Mapping[str, Timing]) -> list[dict[str, object]]:
    baseline = next(iter(timings.values()))
    rows: list[dict[str, object]] = []
    for name, timing in timings.items():
        ratio = None if timing is baseline else timing.ratio(baseline).to_json()
        rows.append({"model": name, **timing.to_json(), "ratio": ratio})
    return rows


def _print(results: Sequence[Mapping[str, object]]) -> None:
    from typing import Any, cast

    rows: list[tuple[str, ...]] = []
    notes: dict[str, None] = {}
    for result in results:
        for timed in cast("list[dict[str, Any]]", result["models"]):
            times = [f"{1e3 * timed[f'{name}_seconds']:.3f}" for name in ("mean", "median", "p90", "p99")]
            ratio = timed["ratio"]
            compared = (
                ("1.00", "")
                if ratio is None
                else (f"{ratio['value']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}")
            )
            head = (str(result["threads"]), str(result["batch"]), str(timed["model"]))
            rows.append((*head, *times, f"{timed['throughput_per_second']:.1f}", *compared))
            notes.update(dict.fromkeys(timed["notes"]))
    print_table(HEAD, rows)
    for note in notes:
        print_line(note)
