"""`adapass analyze`: what is in a model, what it costs, and what each family could do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, Model, Quiet, Seed, Threads, Verbose
from adapass.cli.output import print_json, print_line, print_table
from adapass.errors import UsageError


def analyze(
    model: Model,
    target: Annotated[str, typer.Option(help="Name or TOML file; see `adapass targets list`.")] = "cpu",
    data: Data = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Which layer do 8 bits damage? Each layer alone, worst first, why, and what to do.",
        ),
    ] = False,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="What could exits, token pruning and merging, and skipping save on this data, at best and "
            "as they are? Needs --data; takes a minute or two.",
        ),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="QUANTIZED.onnx",
            help="A quantized form of MODEL, by any tool: names the first layer whose error jumps.",
        ),
    ] = None,
    quantizer: Annotated[
        str,
        typer.Option(help="With --sensitivity: how to quantize, such as quantize-8bit{per-channel=false}."),
    ] = "quantize-8bit",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Show the regions of a model, their cost, the sites of every family, and why a family can do nothing."""
    del verbose
    if adaptive:
        if sensitivity or compare is not None:
            raise UsageError(
                "--adaptive, --sensitivity and --compare answer different questions; give one of them"
            )
        from adapass.cli.adaptive import show_adaptive

        show_adaptive(model, data=data, allow_code=allow_code, as_json=as_json, quiet=quiet)
        return
    if sensitivity or compare is not None:
        _look_at_layers(
            model,
            sensitivity,
            compare,
            quantizer,
            data=data,
            seed=seed,
            allow_code=allow_code,
            as_json=as_json,
        )
        return
    from adapass.cli.progress import shown_progress
    from adapass.driver.analyze import analyze as run_analyze

    with shown_progress(quiet) as progress:
        analysis = run_analyze(
            model, target=target, data=data, threads=threads, allow_code=allow_code, progress=progress
        )
    if as_json:
        print_json(analysis.to_dict())
        return
    for section in analysis.sections:
        print_table(section.columns, section.rows, title=section.title)
        for note in section.notes:
            print_line(note)
        print_line()


def _look_at_layers(
    model: Path,
    sensitivity: bool,
    compare: Path | None,
    quantizer: str,
    *,
    data: str | None,
    seed: int,
    allow_code: bool,
    as_json: bool,
) -> None:
    from adapass.cli.sensitivity import show_comparison, show_sensitivity

    if sensitivity and compare is not None:
        raise UsageError("--sensitivity and --compare answer different questions; give one of them")
    if compare is not None:
        show_comparison(model, compare, data=data, seed=seed, allow_code=allow_code, as_json=as_json)
        return
    show_sensitivity(model, data=data, quantizer=quantizer, seed=seed, allow_code=allow_code, as_json=as_json)
