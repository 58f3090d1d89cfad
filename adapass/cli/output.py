"""What goes to stdout: tables for people, JSON for programs. Nothing else writes there."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import cast

WIDE_COLUMNS = 200
"""Width of tables when stdout is not a terminal, so that nothing is cut."""


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document; numbers that JSON does not know (infinities) become text."""
    sys.stdout.write(json.dumps(_plain(document), indent=2) + "\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table whose cells are shown as they are: nothing in them is markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE_COLUMNS)
    console.print(table)


def print_line(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def print_note(text: str) -> None:
    """A remark for people, on stderr."""
    sys.stderr.write(f"adapass: {text}\n")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("Sequence[object]", value)]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)
