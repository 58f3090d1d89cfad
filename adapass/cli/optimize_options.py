"""The options of `adapass optimize` and their help texts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Mode(StrEnum):
    """How long the search may take."""

    QUICK = "quick"
    DEFAULT = "default"
    EXTENSIVE = "extensive"


Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the artifact.", show_default="MODEL.adapass")
]
Target = Annotated[str, typer.Option(help="Name or TOML file; see `adapass targets list`.")]
Backend = Annotated[str, typer.Option(help="Code generator, or 'auto' for the fastest measured one.")]
FitData = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Data to fit on: an .npz file with arrays named like the model's inputs (and 'labels' where "
        "known), a folder of such files, or package.module:function with --allow-code.",
        show_default="none: only exact changes",
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="PATH",
        help="Data to search and certify on, like --data.",
        show_default="a part of --data, split by content",
    ),
]
MaxDrop = Annotated[
    float, typer.Option(help="Largest drop in quality to accept, as a share: 0.01 is one point.")
]
Confidence = Annotated[float, typer.Option(help="Confidence of the certificate.")]
Metric = Annotated[
    str, typer.Option(help="Quality metric; 'auto' takes what fits the outputs and the labels.")
]
LatencyTarget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Stop at this latency per batch, for example 3ms.", show_default="none"
    ),
]
HowMuch = Annotated[Mode, typer.Option(help="How much to try.")]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Stop the search after this time, for example 10m.", show_default="none"
    ),
]
HealTime = Annotated[
    str | None,
    typer.Option(
        "--heal",
        metavar="TIME",
        help="Cut boldly and train what is left towards the original for about this time, for example 10m. "
        "Needs data, no labels, and the torch extra.",
        show_default="no training",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Batch size to optimize and measure for.")]
Passes = Annotated[
    str | None,
    typer.Option(
        metavar="PIPELINE", help="Passes to use instead of the default ones.", show_default="default"
    ),
]
SkipPasses = Annotated[
    list[str] | None, typer.Option(metavar="NAMES", help="Passes to leave out, separated by commas.")
]
Recipe = Annotated[
    Path | None, typer.Option(help="Repeat the decisions of this recipe.yaml instead of searching.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and say what would be done; write nothing.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also print the plans that were tried and the recipe.")
]
AllowUncertified = Annotated[
    bool,
    typer.Option("--allow-uncertified", help="Accept a result without a certificate; the manifest says so."),
]
MaxSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Largest size of the weights, for example 20MB.", show_default="any"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that fit and evaluate; 0 uses this one. The result does not depend on it.",
        show_default="one a thread",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Dask scheduler, for example tcp://host:8786, whose workers fit and evaluate. Latency is always "
        "measured here.",
        show_default="local processes",
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Replay latencies from a table (--latency-table): the same artifact hash again.",
    ),
]
LatencyTable = Annotated[
    Path | None,
    typer.Option(help="The table --deterministic reads and adds to.", show_default="MODEL.latency.json"),
]
Advise = Annotated[
    bool,
    typer.Option("--advise/--no-advise", help="Start from what worked for similar models on this machine."),
]
