"""`adapass passes`: what passes there are, and what each one does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, cast

import typer

from adapass.cli.guard import guarded
from adapass.cli.options import Json
from adapass.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from adapass.rewrite import Pass

passes_app = typer.Typer(help="List the passes, or show one.", no_args_is_help=True)


def list_passes(as_json: Json = False) -> None:
    """List every pass with its kind, what it may do to the numbers, and what it does."""
    from adapass.registry import pass_class, pass_names

    found = [(name, pass_class(name)) for name in pass_names()]
    if as_json:
        print_json({"passes": [_facts(kind) for _, kind in found]})
        return
    rows = [(name, _kind(pass_), pass_.exactness, _first_line(pass_)) for name, pass_ in found]
    print_table(("pass", "kind", "exactness", "what it does"), rows)


def show_pass(
    name: Annotated[str, typer.Argument(help="Name of the pass; see `adapass passes list`.")],
    as_json: Json = False,
) -> None:
    """Show a pass: its documentation, options with defaults, exactness and source."""
    from adapass.registry import pass_class

    kind = pass_class(name)
    if as_json:
        print_json(_facts(kind))
        return
    print_line(f"{name}: {_kind(kind)}, {kind.exactness}" + (f", after {kind.source}" if kind.source else ""))
    print_line()
    print_line(_documentation(kind))
    notes = _option_notes(kind)
    options = kind().options()
    rows = [(key.replace("_", "-"), _shown(value), notes.get(key, "")) for key, value in options.items()]
    if rows:
        print_table(("option", "default", "meaning"), rows)


def _shown(value: object) -> str:
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(str(part) for part in cast("Iterable[object]", value)) or "none"
    return str(value)


def _facts(kind: type[Pass]) -> dict[str, object]:
    return {
        "name": kind.name,
        "kind": _kind(kind),
        "exactness": str(kind.exactness),
        "preserves": sorted(fact.__name__ for fact in kind.preserves),
        "source": kind.source,
        "options": {key.replace("_", "-"): value for key, value in kind().options().items()},
        "documentation": _documentation(kind),
    }


def _kind(kind: type[Pass]) -> str:
    from adapass.budgeted import BudgetedPass

    return "budgeted" if issubclass(kind, BudgetedPass) else "exact"


def _documentation(kind: type[Pass]) -> str:
    """The module's text, which shows before and after; the class's where the module has none."""
    module = inspect.getmodule(kind)
    return inspect.cleandoc((module.__doc__ if module else None) or kind.__doc__ or "")


def _first_line(kind: type[Pass]) -> str:
    return _documentation(kind).partition("\n")[0]


def _option_notes(kind: type[Pass]) -> dict[str, str]:
    """The text under each field; Python keeps none at run time, so it is read from the source."""
    names = "|".join(field.name for field in fields(kind))
    text = inspect.getsource(kind)
    found = re.finditer(rf'^    ({names}): [^\n]*\n    """(.*?)"""', text, re.MULTILINE | re.DOTALL)
    return {match[1]: " ".join(match[2].split()) for match in found}


passes_app.command("list")(guarded(list_passes))
passes_app.command("show", no_args_is_help=True)(guarded(show_pass))
