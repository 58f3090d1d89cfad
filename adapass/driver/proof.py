"""Certify what ships: the built artifact itself, run on the certify part, along its path of settings.

The path goes from the safest setting to the most aggressive one and was fixed on search data. Each
setting is tested in turn; the first that fails ends it, and the last that passed is shipped
(fixed-sequence testing, so the choice costs no confidence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapass.budgeted import Array, OperatingPoint
from adapass.certify import Certificate, certify_sequence
from adapass.driver.finals import Build, knob_feeds
from adapass.progress import Progress
from adapass.search.judge import Judge, stack_outputs

MAX_POINTS = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of certification."""

    point: OperatingPoint | None
    """The setting that ships; ``None`` for a model without knobs, or when nothing passed."""
    certificate: Certificate | None
    """``None`` when nothing passed."""
    reachable: float
    """Upper confidence bound on the drop at the safest setting: the nearest budget that could be reached."""
    score: float
    """The metric on the certify part at the shipped (or, when nothing passed, the safest) setting."""


def prove(
    build: Build, judge: Judge, *, max_drop: float, confidence: float, threads: int, seed: int, progress: Progress
) -> Proof:
    """Walk the path of settings of one build over the certify samples."""
    path = path_of(build.candidate.points)
    outputs: list[Array] = []

    def losses(index: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        progress.step(index, len(path), "certify")
        outputs.append(_outputs(build, judge, path[index], threads))
        return judge.losses(outputs[-1])

    verdict = certify_sequence(
        losses, len(path), max_drop=max_drop, confidence=confidence, metric=judge.metric, seed=seed
    )
    chosen = verdict.index if verdict.index is not None else 0
    return Proof(
        path[chosen] if verdict.index is not None else None,
        verdict.certificate,
        verdict.first_bound,
        judge.score(outputs[chosen]),
    )


def path_of(points: Sequence[OperatingPoint]) -> list[OperatingPoint | None]:
    """At most MAX_POINTS settings, ends included; ``[None]`` for a model without knobs."""
    if not points:
        return [None]
    wanted = np.unique(np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).round().astype(int))
    return [points[int(i)] for i in wanted]


def _outputs(build: Build, judge: Judge, point: OperatingPoint | None, threads: int) -> Array:
    name = build.candidate.model.graph.outputs[0].name or ""
    runner = build.generator.load(build.folder, threads=threads)
    try:
        samples = judge.samples
        return stack_outputs(samples, lambda i: runner.run(knob_feeds(samples.feeds(i), point)).outputs[name])
    finally:
        runner.close()
