"""`adapass`: the commands, and the way from an exception to an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from adapass.cli.analyze import analyze
from adapass.cli.bench import bench
from adapass.cli.bisect import bisect
from adapass.cli.cache import cache_app
from adapass.cli.deltas import pack, unpack
from adapass.cli.demo import demo
from adapass.cli.doctor import doctor
from adapass.cli.guard import guarded
from adapass.cli.monitor import monitor
from adapass.cli.optimize import optimize
from adapass.cli.passes import passes_app
from adapass.cli.pick import pick
from adapass.cli.run import run
from adapass.cli.synthesize import synthesize
from adapass.cli.targets import targets_app
from adapass.cli.verify import verify

EXIT_CODES = (
    "Exit codes: 0 done; 1 a bug; 2 something given is wrong; 3 nothing within the budget, the original is "
    "returned; 4 a check failed (numbers, or live traffic); 5 target not available; 130 interrupted."
)

app = typer.Typer(
    name="adapass",
    help="Make a trained ONNX model faster on a target, and prove what it may have cost.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("adapass"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options before any command."""
    del version


def _add(command: Callable[..., None], *, needs_arguments: bool = True) -> None:
    app.command(no_args_is_help=needs_arguments)(guarded(command))


_add(optimize)
_add(analyze)
_add(bench)
_add(verify)
_add(bisect)
_add(run)
_add(pick)
_add(monitor)
_add(pack)
_add(unpack)
_add(synthesize)
_add(doctor, needs_arguments=False)
_add(demo, needs_arguments=False)
app.add_typer(passes_app, name="passes")
app.add_typer(targets_app, name="targets")
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Entry point of the console script."""
    app()
