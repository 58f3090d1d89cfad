"""`adapass monitor ARTIFACT`: does live traffic still look like what the certificate was made on?"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from adapass.cli.options import Json, Quiet, Threads, Verbose
from adapass.cli.output import print_json, print_line, print_note, print_table
from adapass.errors import ArtifactError, DataError, ExitCode, UsageError

if TYPE_CHECKING:
    from adapass.artifact import LoadedArtifact
    from adapass.artifact.manifest import Manifest
    from adapass.drift import Monitor, Reference

STDIN = "-"


def monitor(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact with early exits.")],
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Exits that live samples took, one a line in their order: numbers from 0, or JSON objects "
            "with an 'exit'; - reads standard input.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="NPZ", help="Run the artifact on arrays named like its inputs instead."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Go on from this file where it exists, and save to it at the end."),
    ] = None,
    false_alarm_rate: Annotated[
        float,
        typer.Option(help="Chance of an alarm, ever, on a stream without drift."),
    ] = 0.01,
    point: Annotated[
        str | None,
        typer.Option(help="The operating point the samples ran at.", show_default="the artifact's default"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per run, with --data.")] = 32,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Watch which exits live samples take; exit code 4 when they no longer fit the certificate's samples."""
    del verbose
    from adapass.artifact import read_artifact

    if exits is not None and data is not None:
        raise UsageError("--exits and --data were both given; give one of them")
    if exits is None and data is None and (state is None or not state.is_file()):
        raise UsageError("nothing to watch: give --exits FILE, --data NPZ, or a --state file to report on")
    reference = reference_of(read_artifact(artifact).manifest, point, str(artifact))
    watch = _resumed(state, reference, false_alarm_rate) or _new(reference, false_alarm_rate)
    if exits is not None:
        with _saved_if_interrupted(watch, state if exits == STDIN else None), _opened(exits) as stream:
            _follow(watch, stream, exits)
    elif data is not None:
        from adapass.artifact import load_artifact

        with load_artifact(artifact, threads, point=point) as loaded:
            _run(watch, loaded, data, batch)
    if state is not None:
        save(watch, state)
    _report(watch, artifact, as_json=as_json)
    if watch.alarm is not None:
        if not quiet:
            print_note(watch.alarm.message("exit"))
        raise typer.Exit(int(ExitCode.VERIFICATION_FAILED))


def reference_of(manifest: Manifest, point: str | None, where: str) -> Reference:
    """The exits the artifact took on its certify samples, at its default operating point or another one.

    Raises:
        UsageError: it has no exits, nobody counted them, or there is no such point.
        ArtifactError: the shares are not those of its certify samples.

    """
    from adapass.artifact.points import find_point
    from adapass.drift.expected import exit_reference

    name = None if point is None else find_point(manifest, point, where).name
    try:
        reference = exit_reference(manifest, name)
    except UsageError as error:
        raise ArtifactError(f"{where}: {error}") from error
    if reference is None:
        raise UsageError(
            f"{where} has no early exits, or none that were counted on known data; there is nothing to watch"
        )
    return reference


def save(watch: Monitor, path: Path) -> None:
    """Write the state beside its place and rename it, so that it is whole or as it was.

    Raises:
        UsageError: the place cannot be written.

    """
    import tempfile

    try:
        handle, scrap = tempfile.mkstemp(suffix=".partial", dir=path.absolute().parent)
    except OSError as error:
        raise UsageError(f"--state {path} cannot be written ({error}); choose another place") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(watch.to_json())
        Path(scrap).replace(path)
    finally:
        Path(scrap).unlink(missing_ok=True)


def _new(reference: Reference, rate: float) -> Monitor:
    from adapass.drift import Monitor

    return Monitor(reference, rate)


def _resumed(path: Path | None, reference: Reference, rate: float) -> Monitor | None:
    """The saved monitor, where there is one.

    Raises:
        DataError: the file is damaged.
        UsageError: it watched another artifact, or at another rate.

    """
    from adapass.drift import Monitor
    from adapass.drift.state import MAX_STATE_BYTES

    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file:
            saved = Monitor.from_json(file.read(MAX_STATE_BYTES + 1))
    except OSError as error:
        raise DataError(f"--state {path} cannot be read ({error})") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if saved.reference != reference:
        raise UsageError(
            f"--state {path} watched another artifact; give each artifact a state file of its own"
        )
    if saved.false_alarm_rate != rate:
        raise UsageError(
            f"--state {path} was begun with --false-alarm-rate {saved.false_alarm_rate:g}, {rate:g} given; "
            "the rate is fixed before the first sample: give the old one, or begin a new file"
        )
    return saved


@contextmanager
def _saved_if_interrupted(watch: Monitor, state: Path | None) -> Generator[None]:
    """What came through a pipe will not come again; a file can be read again, and would count twice."""
    try:
        yield
    except KeyboardInterrupt:
        if state is not None:
            save(watch, state)
        raise


@contextmanager
def _opened(name: str) -> Generator[IO[bytes]]:
    if name == STDIN:
        yield sys.stdin.buffer
        return
    try:
        raw = os.open(name, os.O_RDONLY)
        stream = os.fdopen(raw, "rb")
    except OSError as error:
        raise DataError(f"--exits {name} cannot be read ({error})") from error
    with stream:
        yield stream


def _follow(watch: Monitor, stream: IO[bytes], name: str) -> None:
    """Sample by sample, so that a live pipe is answered at once; ends with the alarm."""
    from adapass.drift.lines import read_categories

    where = "standard input" if name == STDIN else name
    if watch.alarm is None:
        for category in read_categories(stream, len(watch.reference.counts), where):
            if watch.observe((category,)) is not None:
                return


def _run(watch: Monitor, loaded: LoadedArtifact, data: Path, batch: int) -> None:
    """Run what is in the archive under the names of the inputs; anything else (labels) is left out.

    Raises:
        DataError: an input is missing or does not fit, or the inputs have different numbers of samples.

    """
    from adapass.data.archive import read_npz

    names = {port.name for port in loaded.inputs if not port.optional}
    arrays = {name: array for name, array in read_npz(data).items() if name in names}
    counts = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{data}: inputs have different numbers of samples: {counts}; one number expected")
    for start in range(0, max(counts.values(), default=1), batch):
        loaded.run({name: array[start : start + batch] for name, array in arrays.items()})
        taken = loaded.stats.exits
        if taken is None:
            folder = loaded.artifact.folder
            raise UsageError(f"{folder} does not tell which exits it took; there is nothing to watch")
        watch.observe(taken)


def _report(watch: Monitor, artifact: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(watch, artifact))
        return
    alarm, expected = watch.alarm, watch.reference.shares
    total = max(watch.samples, 1)
    head = ("exit", "expected", "all samples", *(("since the drift began",) if alarm else ()))
    rows = [
        (k, f"{expected[k]:.1%}", f"{count / total:.1%}", *((f"{alarm.seen[k]:.1%}",) if alarm else ()))
        for k, count in enumerate(watch.counts)
    ]
    print_table(head, rows)
    verdict = f"alarm at sample {alarm.sample:,}" if alarm else "no alarm"
    evidence = f"strongest evidence {watch.evidence:.3g} of {watch.needed:.3g}"
    rate = f"false alarms, ever: at most {watch.false_alarm_rate:.3g}"
    print_line(f"{verdict}: {watch.samples:,} samples, {evidence} ({rate})")


def _document(watch: Monitor, artifact: Path) -> dict[str, object]:
    alarm = watch.alarm
    found = alarm and {
        "sample": alarm.sample,
        "since": alarm.since,
        "seen": alarm.seen,
        "message": alarm.message("exit"),
    }
    return {
        "artifact": str(artifact),
        "samples": watch.samples,
        "reference_samples": watch.reference.samples,
        "false_alarm_rate": watch.false_alarm_rate,
        "evidence": watch.evidence,
        "needed": watch.needed,
        "expected": watch.reference.shares,
        "counts": watch.counts,
        "alarm": found,
    }
