"""`adapass cache`: measurements that were kept."""

from __future__ import annotations

from typing import Annotated

import typer

from adapass.cli.guard import guarded
from adapass.cli.options import Json
from adapass.cli.output import print_json, print_line, print_table

cache_app = typer.Typer(help="Show or clear the cache of measurements.", no_args_is_help=True)


def info(as_json: Json = False) -> None:
    """Show where the cache is and what it holds."""
    from adapass.cache import Cache

    held = Cache().info()
    if as_json:
        kinds = {
            name: {"entries": kind.entries, "size_bytes": kind.size_bytes}
            for name, kind in held.kinds.items()
        }
        print_json({"folder": str(held.folder), "kinds": kinds})
        return
    print_line(f"folder: {held.folder} (set ADAPASS_CACHE to move it)")
    print_table(
        ("kind", "entries", "bytes"), [(name, k.entries, k.size_bytes) for name, k in held.kinds.items()]
    )


def clear(
    kind: Annotated[str | None, typer.Option(help="Only entries of this kind.", show_default="all")] = None,
    as_json: Json = False,
) -> None:
    """Remove what the cache holds; the next run measures again."""
    from adapass.cache import Cache

    removed = Cache().clear(kind)
    print_json({"removed": removed}) if as_json else print_line(f"removed {removed} entries")


cache_app.command("info")(guarded(info))
cache_app.command("clear")(guarded(clear))
