"""`adapass run`: inputs from an npz file, outputs to an npz file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import Json, PointName, Quiet, Threads, Verbose
from adapass.cli.output import print_json, print_line, print_note, print_table
from adapass.errors import DataError, UsageError

if TYPE_CHECKING:
    from adapass.budgeted import Array
    from adapass.generator import Outcome

LABELS = "labels"


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An artifact folder or an ONNX file.")],
    inputs: Annotated[
        Path, typer.Argument(metavar="INPUTS.npz", help="Arrays named like the model's inputs.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the outputs go.", show_default="only a summary"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Samples per run.", show_default="all in one run"),
    ] = None,
    point: PointName = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Run an artifact or an ONNX file on inputs from an npz file; outputs keep the order of the samples."""
    del verbose
    from adapass.cli.contestants import EXIT_COLUMN, Runnable
    from adapass.data.archive import read_npz

    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output.absolute().parent} is no folder; create it, or choose another --output")
    arrays = dict(read_npz(inputs))
    runner = Runnable(model, threads, point)
    try:
        if LABELS in arrays and LABELS not in {port.name for port in runner.inputs}:
            del arrays[LABELS]
            if not quiet:
                print_note(f"'{LABELS}' in {inputs} is not an input of the model and is left out")
        outcome = _joined([runner.run(part) for part in _parts(arrays, batch)])
    finally:
        runner.close()
    exits = outcome.exits
    columns = dict(outcome.outputs) if exits is None else {**outcome.outputs, EXIT_COLUMN: exits}
    if output is not None:
        _save(output, columns)
    _report(columns, [] if exits is None else [int(taken) for taken in exits], output, as_json=as_json)


def _parts(arrays: Mapping[str, Array], batch: int | None) -> Iterator[dict[str, Array]]:
    """The inputs cut along the first axis.

    Raises:
        DataError: a batch size was given, but the arrays do not all have the same number of samples.

    """
    if batch is None:
        yield dict(arrays)
        return
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            f"--batch cuts all inputs alike, but their first axes differ: {lengths}; leave --batch out"
        )
    count = next(iter(lengths.values()))
    for start in range(0, count, batch):
        yield {name: array[start : start + batch] for name, array in arrays.items()}


def _joined(parts: list[Outcome]) -> Outcome:
    import numpy as np

    from adapass.generator import Outcome

    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise DataError("there are no samples in the inputs; give at least one")
    try:
        outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    except ValueError as error:
        raise DataError(f"outputs of the batches do not fit together ({error}); leave --batch out") from error
    taken = [part.exits for part in parts if part.exits is not None]
    return Outcome(outputs, np.concatenate(taken) if len(taken) == len(parts) else None)


def _save(path: Path, columns: Mapping[str, Array]) -> None:
    """Written beside its place and renamed, so that it is whole or absent."""
    import os
    import tempfile

    import numpy as np

    handle, scrap = tempfile.mkstemp(suffix=".partial", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        Path(scrap).replace(path)
    finally:
        Path(scrap).unlink(missing_ok=True)


def _report(columns: Mapping[str, Array], exits: list[int], output: Path | None, *, as_json: bool) -> None:
    counts = {taken: exits.count(taken) for taken in sorted(set(exits))}
    if as_json:
        shapes = {
            name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in columns.items()
        }
        print_json({"outputs": shapes, "exits": counts, "file": None if output is None else str(output)})
        return
    print_table(
        ("output", "type", "shape"), [(name, a.dtype.name, list(a.shape)) for name, a in columns.items()]
    )
    if counts:
        print_table(
            ("exit", "samples", "share"), [(k, n, f"{n / len(exits):.1%}") for k, n in counts.items()]
        )
    if output is not None:
        print_line(f"outputs: {output}")
