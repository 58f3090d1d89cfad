"""`adapass verify A B`: do two models compute the same?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import AllowCode, Data, Json, PointName, Quiet, Seed, Verbose
from adapass.cli.output import print_json, print_note, print_table
from adapass.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from adapass.budgeted import Feeds
    from adapass.verification import Difference


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="The reference: an ONNX file or an artifact.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest error allowed, relative to the root mean square of the output.",
            show_default="rounding of the output's type",
        ),
    ] = None,
    point: PointName = None,
    data: Data = None,
    samples: Annotated[int, typer.Option(min=1, help="Inputs to compare on.")] = 16,
    seed: Seed = 0,
    as_json: Json = False,
    allow_code: AllowCode = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Compare what two models compute, on given or generated inputs; exit code 4 when they differ."""
    del quiet, verbose
    from adapass.cli.contestants import portable_model
    from adapass.cli.feeds import samples_for
    from adapass.cost.bench import batched_feeds
    from adapass.verification import compare

    feeds: Sequence[Feeds] | None = None
    if data is not None:
        feeds = batched_feeds(samples_for(first, data, seed=seed, allow_code=allow_code), 1, samples)
    if point is not None and not (first.is_dir() or second.is_dir()):
        raise UsageError("--point is a point of an artifact; neither A nor B is one")
    reference, other = (portable_model(path, point if path.is_dir() else None) for path in (first, second))
    comparison = compare(reference, other, feeds=feeds, seed=seed)
    dtypes = {value.name: _dtype(value.dtype) for value in reference.graph.outputs}
    bounds = {d.output: _bound(dtypes[d.output], tolerance) for d in comparison.differences}
    bad = [d for d in comparison.differences if not d.relative_max <= bounds[d.output]]
    if as_json:
        print_json({**comparison.to_dict(), "equal": not bad, "bounds": bounds})
    else:
        rows = [_row(difference, bounds[difference.output]) for difference in comparison.differences]
        print_table(("output", "largest error", "RMS error", "allowed", ""), rows)
    if bad:
        print_note(f"{second} differs from {first} in {', '.join(d.output for d in bad)}")
        raise typer.Exit(int(ExitCode.VERIFICATION_FAILED))


def _dtype(dtype: object) -> str:
    return str(getattr(dtype, "name", "")).lower()


def _bound(dtype: str, tolerance: float | None) -> float:
    from adapass.verification import ROUNDING_TOLERANCE

    names = {"float": "float32", "double": "float64"}
    return ROUNDING_TOLERANCE.get(names.get(dtype, dtype), 0.0) if tolerance is None else tolerance


def _row(difference: Difference, bound: float) -> tuple[str, ...]:
    verdict = difference.note or ("equal" if difference.relative_max <= bound else "differs")
    return (
        difference.output,
        f"{difference.relative_max:.3g}",
        f"{difference.relative_rms:.3g}",
        f"{bound:.3g}",
        verdict,
    )
