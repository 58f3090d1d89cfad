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
    del quiet, verbose
    from adapass.analyze import analyze as run_analyze
    from adapass.data import load_data
    from adapass.graph.load import load_model

    loaded = load_model(model)
    samples = None if data is None else load_data(data, loaded, allow_code=allow_code)
    analysis = run_analyze(loaded, target=target, data=samples, threads=threads)
    if as_json:
        print_json(analysis.to_dict())
        return
    for section in analysis.sections:
        print_table(section.head, section.rows, title=section.title)
        for note in section.notes:
            print_line(note)
