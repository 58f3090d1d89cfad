"""Side by side: a baseline and other models or artifacts, on the same data, by threads and batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np

from adapass.budgeted import Feeds, Samples
from adapass.cost.measure import REAL_CLOCK, Clock, Ratio, Timing, interleaved
from adapass.errors import DataError, UsageError
from adapass.machine import Fingerprint, fingerprint
from adapass.progress import Progress, Silent

ROUNDS: Final = 6
WARMUP: Final = 5
MAX_SAMPLES: Final = 512
_TIMES: Final = ("mean ms", "median", "p90", "p99")
_HEAD: Final = ("model", "threads", "batch", *_TIMES, "noise", "samples/s", "ratio", "95 % interval")


class Runnable(Protocol):
    """What can be timed: a runner of a generator, a loaded artifact, a plain file."""

    def run(self, feeds: Feeds) -> object: ...

    def close(self) -> None: ...


Opener: TypeAlias = Callable[[Path, int], Runnable]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to bench. Every combination of ``threads`` and ``batches`` is one interleaved run."""

    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    rounds: int = ROUNDS
    warmup: int = WARMUP
    samples: int = MAX_SAMPLES
    """At most so many samples, spread evenly over the data."""
    max_seconds: float | None = None
    """For everything together; shared evenly by the combinations."""

    def __post_init__(self) -> None:
        for name, values in (("threads", self.threads), ("batches", self.batches)):
            if not values or min(values) < 1:
                raise UsageError(f"{name} is {list(values)}, expected numbers of at least 1")
        if min(self.rounds, self.warmup, self.samples) < 1:
            raise UsageError("rounds, warmup and samples must be at least 1")

    @property
    def max_seconds_each(self) -> float | None:
        combinations = len(self.threads) * len(self.batches)
        return None if self.max_seconds is None else self.max_seconds / combinations

    def to_json(self) -> dict[str, object]:
        lists = {"threads": list(self.threads), "batches": list(self.batches)}
        counts = {"rounds": self.rounds, "warmup": self.warmup, "samples": self.samples}
        return {**lists, **counts, "max_seconds": self.max_seconds}


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one number of threads and one batch size."""

    model: str
    threads: int
    batch: int
    timing: Timing
    ratio: Ratio | None
    """Its mean over the baseline's; ``None`` for the baseline."""

    def to_json(self) -> dict[str, object]:
        ratio = None if self.ratio is None else self.ratio.to_json()
        where = {"model": self.model, "threads": self.threads, "batch": self.batch}
        return {**where, "timing": self.timing.to_json(), "ratio": ratio}


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows, and under which circumstances they were taken."""

    rows: tuple[Row, ...]
    settings: Settings
    machine: Fingerprint

    @property
    def notes(self) -> tuple[str, ...]:
        """What disturbed the runs, each thing once."""
        cores = self.machine.cores
        many = [f"{t} threads on {cores} cores" for t in self.settings.threads if t > cores]
        return tuple(dict.fromkeys([*many, *(note for row in self.rows for note in row.timing.notes)]))

    def to_json(self) -> dict[str, object]:
        rows = [row.to_json() for row in self.rows]
        circumstances = {"settings": self.settings.to_json(), "machine": self.machine.to_json()}
        return {**circumstances, "notes": list(self.notes), "rows": rows}


def bench(
    baseline: Path,
    others: Sequence[Path],
    data: Samples,
    settings: Settings,
    *,
    progress: Progress | None = None,
    opener: Opener | None = None,
    clock: Clock = REAL_CLOCK,
) -> BenchResult:
    """Time ``baseline`` and ``others`` (ONNX files or artifact folders) interleaved on ``data``.

    Raises:
        DataError: fewer samples than a batch needs.
        UsageError: a setting makes no sense, or a path is neither a file nor a folder.

    """
    paths = _named([baseline, *others])
    watch = _Bench(paths, settings, progress or Silent(), opener or open_path, clock)
    cells = [(threads, batch) for threads in settings.threads for batch in settings.batches]
    rows: list[Row] = []
    for index, (threads, batch) in enumerate(cells):
        watch.progress.phase(f"{threads} threads, batch {batch}", index + 1, len(cells))
        timings = watch.time(batched_feeds(data, batch, settings.samples), threads, batch)
        rows.extend(_rows(timings, threads, batch))
    return BenchResult(tuple(rows), settings, fingerprint(max(settings.threads)))


def batched_feeds(data: Samples, batch: int, samples: int) -> list[Feeds]:
    """Full batches from at most ``samples`` samples (but at least one batch), spread evenly over the data.

    Raises:
        DataError: the data is smaller than one batch.

    """
    if len(data) < batch:
        raise DataError(f"the data has {len(data)} samples, expected at least {batch} for one batch")
    count = min(len(data), max(samples, batch)) // batch * batch
    chosen = np.linspace(0, len(data) - 1, count).round().astype(np.int64)
    return [data.batch(chosen[start : start + batch].tolist()) for start in range(0, count, batch)]


def open_path(path: Path, threads: int) -> Runnable:
    """An artifact folder through its own generator, an ONNX file in plain ONNX Runtime."""
    from adapass.artifact.plain import PlainRunner
    from adapass.artifact.runtime import load_artifact

    if path.is_dir():
        return load_artifact(path, threads=threads)
    if not path.is_file():
        raise UsageError(f"{path} is neither an ONNX file nor an artifact folder")
    return PlainRunner(path, threads=threads)


def table(result: BenchResult) -> str:
    """The rows as aligned text, one line a row."""
    lines = [_HEAD, *(_cells(row) for row in result.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    texts = [_aligned(line, widths) for line in lines]
    # Noise has a column; a kind of note that came several times, with other numbers, is shown once.
    kinds = {note.partition(" (")[0]: note for note in reversed(result.notes) if not note.startswith("noisy")}
    return "\n".join([*texts, *(f"note: {note}" for note in reversed(kinds.values()))])


@dataclass(frozen=True, slots=True)
class _Bench:
    paths: Mapping[str, Path]
    settings: Settings
    progress: Progress
    opener: Opener
    clock: Clock

    def time(self, feeds: Sequence[Feeds], threads: int, batch: int) -> Mapping[str, Timing]:
        opened: dict[str, Runnable] = {}
        try:
            for name, path in self.paths.items():
                opened[name] = self.opener(path, threads)
            return interleaved(
                {name: runner.run for name, runner in opened.items()},
                feeds,
                rounds=self.settings.rounds,
                warmup=self.settings.warmup,
                max_seconds=self.settings.max_seconds_each,
                progress=self.progress,
                batch_sizes=[batch] * len(feeds),
                clock=self.clock,
            )
        finally:
            for runner in opened.values():
                runner.close()


def _rows(timings: Mapping[str, Timing], threads: int, batch: int) -> list[Row]:
    baseline = next(iter(timings))
    return [
        Row(name, threads, batch, timing, None if name == baseline else timing.ratio(timings[baseline]))
        for name, timing in timings.items()
    ]


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Short names where they tell the paths apart, else the paths themselves."""
    names = [path.name for path in paths]
    short = len(set(names)) == len(names)
    named = {name if short else str(path): path for name, path in zip(names, paths, strict=True)}
    if len(named) < len(paths):
        raise UsageError(f"the same path is given twice: {', '.join(map(str, paths))}")
    return named


def _cells(row: Row) -> tuple[str, ...]:
    timing = row.timing
    seconds = (timing.mean, timing.median, timing.p90, timing.p99)
    ratio = (
        ("", "")
        if row.ratio is None
        else (f"{row.ratio.value:.3f}", f"{row.ratio.low:.3f}-{row.ratio.high:.3f}")
    )
    times = tuple(f"{1e3 * value:.3f}" for value in seconds)
    noise = "" if timing.noise is None else f"{timing.noise:.0%}"
    return (row.model, str(row.threads), str(row.batch), *times, noise, f"{timing.throughput:.1f}", *ratio)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
