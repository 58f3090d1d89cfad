"""Run an artifact: ``load_artifact(path).run({...})``, at any of its certified operating points."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from adapass.artifact.manifest import Port
from adapass.artifact.plain import PlainRunner
from adapass.artifact.points import Point, find_point, knob_arrays, points_of
from adapass.artifact.read import Artifact, read_artifact
from adapass.artifact.signatures import Signatures
from adapass.artifact.watching import DriftWatch
from adapass.budgeted import Array
from adapass.drift.monitor import Alarm
from adapass.errors import ArtifactError, DataError, UsageError
from adapass.generator import Runner
from adapass.ops import EXIT_INDEX
from adapass.registry import generator


@dataclass(frozen=True, slots=True)
class RunStats:
    """What was spent so far."""

    exits: tuple[int, ...] | None
    """The exit each sample of the last run took, 0 = first; ``None`` for a model without exits."""
    counts: Mapping[int, int]
    """How often each exit was taken, over all runs at the current operating point."""
    runs: int
    samples: int | None
    """Of these runs; ``None`` for a model without exits, whose batch axis nobody named."""
    drift: Alarm | None = None
    """Set once the exits taken no longer fit those of the certificate's samples (see ``adapass.drift``)."""


class LoadedArtifact:
    """An artifact ready to run. Not thread safe; close it when done, or use it in ``with``."""

    def __init__(self, artifact: Artifact, runner: Runner, threads: int) -> None:
        self.artifact = artifact
        self.threads = threads
        self._runner: Runner | None = runner
        self._last: tuple[int, ...] | None = None
        self._counts: dict[int, int] = {}
        self._runs = 0
        self._knobs: dict[str, Array] = {}
        self._passed = Signatures()
        self._drift = DriftWatch(artifact.manifest, None)
        self._point = next((p for p in self.points if p.is_default), None)
        if self._point is not None:
            self._use(self._point)

    @property
    def points(self) -> tuple[Point, ...]:
        """The certified operating points, from the most careful to the most aggressive."""
        return points_of(self.artifact.manifest)

    @property
    def point(self) -> Point | None:
        """What runs now; ``None`` where nothing was certified."""
        return self._point

    def set_point(self, name: str) -> None:
        """Run at another certified point from now on, by name (``p0``) or alias (``safe``).

        Nothing is loaded again. ``stats`` start anew: counts of different points do not add up.

        Raises:
            UsageError: no such point.

        """
        self._use(find_point(self.artifact.manifest, name, str(self.artifact.folder)))

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.artifact.manifest.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What ``run`` returns; which exit was taken is in ``stats``."""
        return tuple(port for port in self.artifact.manifest.outputs if port.name != EXIT_INDEX)

    @property
    def stats(self) -> RunStats:
        samples = None if self._last is None else sum(self._counts.values())
        counts = dict(sorted(self._counts.items()))
        return RunStats(self._last, counts, self._runs, samples, self._drift.alarm)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, samples in the order of the batch. A knob among the feeds wins over the point.

        Raises:
            DataError: an input is missing, unknown, or of the wrong type or rank.

        """
        if self._runner is None:
            raise UsageError(f"artifact {self.artifact.folder} is closed; load it again")
        if not self._passed.has(feeds):
            checked = checked_feeds(feeds, self.inputs)
            self._passed.add(feeds)
            feeds = checked
        outcome = self._runner.run({**self._knobs, **feeds} if self._knobs else feeds)
        self._runs += 1
        if outcome.exits is not None:
            self._last = tuple(int(taken) for taken in outcome.exits)
            for taken in self._last:
                self._counts[taken] = self._counts.get(taken, 0) + 1
            # At knobs of the caller's own, other exits are expected than the manifest knows of.
            if not any(port.optional and port.name in feeds for port in self.inputs):
                self._drift.add(self._last)
        return outcome.outputs

    def close(self) -> None:
        """Free the runner. Closing twice is fine."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _use(self, point: Point) -> None:
        self._point, self._last, self._counts, self._runs = point, None, {}, 0
        self._drift = DriftWatch(self.artifact.manifest, point.name)
        # The build itself has the last point built in, whatever was picked since.
        built_in = point.is_default and point.name == self.artifact.manifest.points[-1].name
        self._knobs = {} if built_in else knob_arrays(point.knobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_artifact(
    path: str | os.PathLike[str], threads: int | None = None, *, point: str | None = None
) -> LoadedArtifact:
    """Verify the artifact at ``path`` and open it for running.

    ``point`` is one of its certified operating points (``safe``, ``balanced``, ``fast``, ``p0`` and so on);
    by default what it ships with.

    ``threads`` is the budget of the whole process; by default what the artifact was measured with,
    but no more than this process may use.

    Raises:
        ArtifactError: see ``read_artifact``; or it needs a generator that is not installed.
        UsageError: ``threads`` below 1, or no such point.

    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}, expected at least 1")
    artifact = read_artifact(Path(path))
    if point is not None:
        find_point(artifact.manifest, point, str(artifact.folder))  # before anything large is opened
    latency = artifact.manifest.latency
    usable = usable_threads()
    budget = threads or (min(latency.threads, usable) if latency else usable)
    loaded = LoadedArtifact(artifact, _open(artifact, budget), budget)
    if point is not None:
        loaded.set_point(point)
    return loaded


def usable_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(artifact: Artifact, threads: int) -> Runner:
    info, folder = artifact.manifest.generator, artifact.generator_folder
    if info is None or folder is None:
        return PlainRunner(artifact.model_path, threads=threads)
    try:
        chosen = generator(info.name)
    except UsageError as error:
        raise ArtifactError(f"{artifact.folder} was built by generator '{info.name}': {error}") from error
    if (missing := chosen.available()) is not None:
        raise ArtifactError(f"{artifact.folder} needs generator '{info.name}': {missing}")
    return chosen.load(folder, threads=threads)


def checked_feeds(feeds: Mapping[str, Array], ports: tuple[Port, ...]) -> dict[str, Array]:
    """The feeds in the order of the ports.

    Raises:
        DataError: an input is missing, unknown, or of the wrong type or rank.

    """
    known = {port.name: port for port in ports}
    for name in feeds:
        if name not in known:
            raise DataError(f"unknown input '{name}'; the inputs are {', '.join(known)}")
    for port in ports:
        if port.name not in feeds and not port.optional:
            raise DataError(f"input '{port.name}' is missing; give {port.dtype} of shape {_shape_text(port)}")
    return {
        name: _checked_feed(np.asarray(feeds[name]), port) for name, port in known.items() if name in feeds
    }


def _checked_feed(array: Array, port: Port) -> Array:
    text = array.dtype.kind in "OSU" and port.dtype in {"str", "object", "string"}
    if array.dtype.name != port.dtype and not text:
        raise DataError(
            f"input '{port.name}' has type {array.dtype.name}, expected {port.dtype}; convert it with astype"
        )
    if port.shape is None:
        return array
    fits = len(array.shape) == len(port.shape) and all(
        not isinstance(expected, int) or found == expected
        for found, expected in zip(array.shape, port.shape, strict=True)
    )
    if not fits:
        raise DataError(f"input '{port.name}' has shape {list(array.shape)}, expected {_shape_text(port)}")
    return array


def _shape_text(port: Port) -> str:
    if port.shape is None:
        return "any"
    return "[" + ", ".join("?" if size is None else str(size) for size in port.shape) + "]"
