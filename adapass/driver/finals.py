"""The last rounds: build the finalists in every variant and measure them against the original."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.artifact.plain import PlainRunner
from adapass.budgeted import Array, Feeds, OperatingPoint
from adapass.cache import Cache
from adapass.cost.measure import Timing, interleaved
from adapass.errors import DataError
from adapass.generator import Generator, Runner, Variant
from adapass.graph.text import clone
from adapass.search.deadline import NEVER, Deadline
from adapass.search.trials import Candidate
from adapass.target import Target

ORIGINAL = "original"
ROUNDS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """A candidate built one way."""

    candidate: Candidate
    generator: Generator
    variant: Variant
    folder: Path
    label: str = ""
    """Of the candidate, unique among those built together; by default its plan in words."""

    @property
    def name(self) -> str:
        return f"{self.label or self.candidate.plan} / {self.generator.name} {self.variant.name}"


def at_point(model: ir.Model, point: OperatingPoint | None) -> ir.Model:
    """A copy whose knobs default to ``point``."""
    copy = clone(model)
    knobs: Mapping[str, Array] = {} if point is None else point.knobs
    for name, value in knobs.items():
        copy.graph.initializers[name].const_value = ir.tensor(np.asarray(value), name=name)
    return copy


def build_all(
    candidates: Sequence[Candidate],
    generators: Sequence[Generator],
    target: Target,
    *,
    threads: int,
    batch: int,
    scratch: Path,
    until: Deadline = NEVER,
    exact_only: bool = False,
) -> list[Build]:
    """Every candidate, at its most aggressive setting, by every generator in every (or every exact) variant.

    Once ``until`` has passed no further one is built; the first is built in any case.
    """
    builds: list[Build] = []
    for candidate, label in zip(candidates, labels_of(candidates), strict=True):
        model = at_point(candidate.model, candidate.points[-1] if candidate.points else None)
        for generator in generators:
            if not generator.supports(model, target).ok:
                continue
            for variant in generator.variants(model, target, threads=threads, batch=batch):
                if exact_only and not variant.exact:
                    continue
                if builds and until.passed:
                    return builds
                folder = scratch / f"build-{len(builds)}"
                folder.mkdir()
                generator.build(model, target, folder, variant.options)
                builds.append(Build(candidate, generator, variant, folder, label))
    return builds


def labels_of(candidates: Sequence[Candidate]) -> list[str]:
    """Plans in words; those that read alike (other sites, other options) are numbered."""
    words = [str(candidate.plan) for candidate in candidates]
    return [
        word if words.count(word) == 1 else f"{word} ({words[:place].count(word) + 1})"
        for place, word in enumerate(words)
    ]


def race_once(
    builds: Sequence[Build],
    original: Path,
    feeds: Sequence[Feeds],
    *,
    threads: int,
    cache: Cache,
    machine: str,
    max_seconds: float | None = None,
) -> Mapping[str, float]:
    """Mean seconds of the original and of every build, by name.

    The answer is remembered by content, so the same run decides the same way on a noisy machine.
    """
    parts = [machine, str(threads), file_digest(original), *map(_identity, builds), feeds_digest(feeds)]
    key = "|".join(parts)
    known = cache.get("finals", key)
    if isinstance(known, Mapping) and {ORIGINAL, *(b.name for b in builds)} == set(known):
        return _positive(known)
    timed = race(builds, original, feeds, threads=threads, max_seconds=max_seconds)
    seconds = {name: timing.mean for name, timing in timed.items()}
    if max_seconds is None:  # what was cut short is no answer for a run that has time
        cache.put("finals", key, seconds)
    return seconds


def _positive(known: Mapping[str, object]) -> dict[str, float]:
    found = {name: float(str(value)) for name, value in known.items()}
    if not all(0.0 < seconds < float("inf") for seconds in found.values()):
        raise DataError(f"latencies of a race must be above zero, found {found}; remove the latency table")
    return found


def folder_digest(folder: Path) -> str:
    """Of everything a generator built."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(folder)}\0{file_digest(file)}\0".encode())
    return found.hexdigest()


def feeds_digest(feeds: Sequence[Feeds]) -> str:
    """What an adaptive model does depends on the values, not on the shapes alone."""
    found = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def race(
    builds: Sequence[Build],
    original: Path,
    feeds: Sequence[Feeds],
    *,
    threads: int,
    rounds: int = ROUNDS,
    max_seconds: float | None = None,
) -> Mapping[str, Timing]:
    """Interleaved timing of the original in plain ONNX Runtime and of every build."""
    runners: dict[str, Runner] = {ORIGINAL: PlainRunner(original, threads=threads)}
    try:
        for build in builds:
            runners[build.name] = build.generator.load(build.folder, threads=threads)
        contestants = {name: r.run for name, r in runners.items()}
        return interleaved(contestants, feeds, rounds=rounds, warmup=2, max_seconds=max_seconds)
    finally:
        for runner in runners.values():
            runner.close()


def knob_feeds(feeds: Feeds, point: OperatingPoint | None) -> dict[str, Array]:
    """Inputs with the knobs set explicitly."""
    return {**feeds, **(point.knobs if point is not None else {})}


def _identity(build: Build) -> str:
    return f"{build.name}:{folder_digest(build.folder)}:{sorted(build.variant.options.items())}"
