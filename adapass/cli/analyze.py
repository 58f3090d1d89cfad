"""`adapass analyze`: what is in a model, what it costs, and what each family could do."""

from __future__ import annotations

from typing import Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, Model, Quiet, Threads, Verbose
from adapass.cli.output import print_json, print_line, print_table


def analyze(
    model: Model,
    target: Annotated[str, typer.Option(help="Name or TOML file; see `adapass targets list`.")] = "cpu",
    data: Data = None,
    threads: Threads = None,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Show the regions of a model, their cost, the sites of every family, and why a family can do nothing."""
    del verbose
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
