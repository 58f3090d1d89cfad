"""`adapass pick`: another certified operating point of an artifact, without searching again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import Json, Quiet, Verbose, seconds
from adapass.cli.output import print_json, print_line, print_note, print_table
from adapass.errors import UsageError

if TYPE_CHECKING:
    from adapass.artifact import Artifact, Point
    from adapass.driver.pick import Picked

Entry = Mapping[str, object]


def pick(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What `adapass optimize` wrote.")],
    latency: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The most careful point that takes at most this long, as 3ms."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="The most aggressive point certified at this drop, as 0.005 for half a point. It counts "
            "only if it was settled before looking at the points.",
        ),
    ] = None,
    point: Annotated[
        str | None, typer.Option(metavar="NAME", help="The point of this name: safe, balanced, fast, p0, ...")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show the points and everything that was measured; write nothing.")
    ] = False,
    plan: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Write the recipe of this plan of the list to --output, for `adapass optimize --recipe`.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write.", show_default="ARTIFACT-POINT.adapass"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Make another certified operating point the default of an artifact: no search and no data needed."""
    del verbose
    from adapass.driver.pick import Wish
    from adapass.driver.pick import pick as run_pick

    ways = sum(each is not None for each in (latency, max_drop, point, plan)) + show
    if ways != 1:
        raise UsageError("give one of --latency, --max-drop, --point, --plan and --list")
    if show:
        _show(artifact, as_json=as_json)
        return
    if plan is not None:
        _write_recipe(artifact, plan, output)
        return
    wish = Wish(latency_seconds=seconds(latency, "--latency"), max_drop=max_drop, point=point)
    picked = run_pick(artifact, wish, output)
    if max_drop is not None and not quiet:
        print_note(
            "the certificate counts if this budget was settled beforehand, not after a look at the points"
        )
    _tell(picked, as_json=as_json)


def _show(folder: Path, *, as_json: bool) -> None:
    from adapass.artifact import points_of, read_artifact

    source = read_artifact(folder)
    points, plans = points_of(source.manifest), _plans(source)
    if as_json:
        print_json({"points": [each.to_dict() for each in points], "front": list(plans)})
        return
    if points:
        head = ("point", "certified drop", "loss seen", "latency", "of the original", "exits taken", "")
        print_table(head, [_row(each) for each in points], title="operating points")
    else:
        print_line("no certified operating points")
    if plans:
        print_table(
            ("", "plan", "latency", "search loss", "", "recipe"),
            [_plan_row(number, entry) for number, entry in enumerate(plans)],
            title="what was measured",
        )


def _plans(source: Artifact) -> tuple[Entry, ...]:
    return tuple(entry for entry in source.pareto() if entry.get("kind", "candidate") != "step")


def _row(point: Point) -> tuple[str, ...]:
    return (
        point.title,
        f"{100 * point.certified_drop:.2f} points",
        "" if point.loss is None else f"{100 * point.loss:+.2f} points",
        "" if point.seconds is None else f"{1e3 * point.seconds:.3f} ms ({point.trust})",
        "" if point.ratio is None else "{:.2f}x ({:.2f} to {:.2f})".format(*point.ratio),
        "" if point.exits is None else " ".join(f"{100 * share:.0f}%" for share in point.exits.shares),
        "default" if point.is_default else "",
    )


def _plan_row(number: int, entry: Entry) -> tuple[object, ...]:
    taken, loss = entry.get("seconds"), entry.get("search_loss")
    trust = f" ({entry['trust']})" if "trust" in entry else ""
    words = [word for word in ("chosen", "certified") if entry.get(word) is True]
    return (
        number,
        entry.get("name", ""),
        f"{1e3 * taken:.3f} ms{trust}" if isinstance(taken, float) else "",
        f"{100 * loss:+.2f} points" if isinstance(loss, float) else "",
        ", ".join(words),
        "yes" if entry.get("recipe") else "",
    )


def _write_recipe(folder: Path, number: int, output: Path | None) -> None:
    from adapass.artifact import read_artifact
    from adapass.driver.front import recipe_text

    if output is None:
        raise UsageError("--plan needs --output: the recipe file to write")
    text = recipe_text(_plans(read_artifact(folder)), number)
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or choose another --output")
    output.write_text(text, "utf-8")
    print_line(f"recipe: {output}")


def _tell(picked: Picked, *, as_json: bool) -> None:
    if as_json:
        print_json(picked.to_dict())
        return
    head = ("point", "certified drop", "loss seen", "latency", "of the original", "exits taken", "")
    print_table(head, [_row(picked.point)])
    print_line(picked.certificate.statement)
    print_line(f"artifact: {picked.artifact}")
