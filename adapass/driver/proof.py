"""Certify what ships: the built artifact itself, run on the certify part, along its path of settings.

The path goes from the safest setting to the most aggressive one and was fixed on search data. Each
setting is tested in turn; the first that fails ends it, and the last that passed is shipped
(fixed-sequence testing, so the choice costs no confidence).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array, OperatingPoint
from adapass.certify.bounds import upper_bound
from adapass.certify.certificate import Certificate, issue
from adapass.certify.losses import Losses
from adapass.certify.sequence import certify
from adapass.driver.finals import Build, knob_feeds
from adapass.progress import Progress
from adapass.search.judge import Judge, stack_outputs

MAX_POINTS = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of certification."""

    point: OperatingPoint | None
    """The last setting that passed, or the safest when nothing passed; ``None`` without knobs."""
    certificate: Certificate | None
    """``None`` when nothing passed."""
    reachable: float
    """Upper confidence bound on the drop at that setting."""
    score: float
    """The metric on the certify part at that setting."""
    exits: npt.NDArray[np.int64] | None
    """The exit each certify sample took; ``None`` for a model without exits."""


@dataclass(frozen=True, slots=True)
class _Run:
    losses: Losses
    score: float
    exits: npt.NDArray[np.int64] | None


def prove(
    build: Build,
    judge: Judge,
    *,
    max_drop: float,
    confidence: float,
    latency_target_seconds: float | None,
    split_seed: int,
    data: str,
    threads: int,
    progress: Progress,
) -> Proof:
    """Walk the path of settings of one build over the certify samples (``data`` is their fingerprint)."""
    path = path_of(build.candidate.points, latency_target_seconds)
    runs: list[_Run] = []

    def walk() -> Iterator[Losses]:
        for index, point in enumerate(path):
            runs.append(_run(build, judge, point, threads))
            progress.step(index + 1, len(path), "certify")
            yield runs[-1].losses

    verdict = certify(walk(), max_drop, confidence)
    position = verdict.index or 0
    shipped = runs[position]
    certificate = (
        None
        if verdict.index is None
        else issue(
            shipped.losses,
            verdict,
            position=position,
            max_drop=max_drop,
            confidence=confidence,
            split_seed=split_seed,
            data=data,
        )
    )
    return Proof(
        path[position], certificate, upper_bound(shipped.losses, confidence), shipped.score, shipped.exits
    )


def path_of(
    points: Sequence[OperatingPoint], enough_seconds: float | None = None
) -> list[OperatingPoint | None]:
    """At most MAX_POINTS settings, ends included; ``[None]`` for a model without knobs.

    Settings more aggressive than the first one expected to be fast enough are left out.
    """
    if not points:
        return [None]
    if enough_seconds is not None:
        slow = sum(point.expected_seconds > enough_seconds for point in points)
        points = points[: slow + 1]
    wanted = np.unique(np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).round().astype(int))
    return [points[int(i)] for i in wanted]


def _run(build: Build, judge: Judge, point: OperatingPoint | None, threads: int) -> _Run:
    name = build.candidate.model.graph.outputs[0].name or ""
    samples, taken = judge.samples, list[npt.NDArray[np.int64]]()
    runner = build.generator.load(build.folder, threads=threads)

    def one(index: int) -> Array:
        outcome = runner.run(knob_feeds(samples.feeds(index), point))
        if outcome.exits is not None:
            taken.append(outcome.exits)
        return outcome.outputs[name]

    try:
        output = stack_outputs(samples, one)
    finally:
        runner.close()
    return _Run(judge.compare(output), judge.score(output), np.concatenate(taken) if taken else None)
