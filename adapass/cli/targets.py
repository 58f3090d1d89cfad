"""`adapass targets`: what hardware is described, and how."""

from __future__ import annotations

from typing import Annotated

import typer

from adapass.cli.guard import guarded
from adapass.cli.options import Json
from adapass.cli.output import print_json, print_line, print_table

targets_app = typer.Typer(help="List the targets, or show one.", no_args_is_help=True)


def list_all(as_json: Json = False) -> None:
    """List every target, and whether its device is in this machine."""
    from adapass.target import list_targets, load_target

    found = [(name, load_target(name)) for name in list_targets()]
    if as_json:
        print_json({"targets": [{**target.to_json(), "here": target.device_here()} for _, target in found]})
        return
    rows = [(name, t.kind, "yes" if t.device_here() else "no", t.description) for name, t in found]
    print_table(("target", "kind", "here", "description"), rows)


def show(
    name: Annotated[str, typer.Argument(help="Name of the target, or a TOML file.")], as_json: Json = False
) -> None:
    """Show a target: every number with its unit and where it comes from."""
    from adapass.target import load_target

    target = load_target(name)
    if as_json:
        print_json({**target.to_json(), "here": target.device_here()})
        return
    print_line(f"{target.name} ({target.kind}): {target.description}")
    print_line(
        "the device is in this machine" if target.device_here() else "not in this machine: cost is modelled"
    )
    rows: list[tuple[str, object, str]] = []
    for table in ("arch", "compute", "memory", "overhead", "features"):
        for key, value in getattr(target, table).items():
            shown = f"{value:g}" if isinstance(value, float) else value
            rows.append((f"{table}.{key}", shown, target.source_of(f"{table}.{key}")))
    print_table(("number", "value", "source"), rows)
    for note in target.notes:
        print_line(note)


targets_app.command("list")(guarded(list_all))
targets_app.command("show", no_args_is_help=True)(guarded(show))
