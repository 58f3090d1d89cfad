"""Healing within a time: what a driver calls once the plan that won is applied and fitted.

The time is turned into a number of rounds first, by measuring a few steps; the rounds are then trained to
their end. Two runs with the same number of rounds give the same weights, whatever the clock says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds, Samples
from adapass.errors import UsageError
from adapass.healing.batches import lengths, split
from adapass.healing.course import Course
from adapass.healing.distill import Healed, distill
from adapass.healing.end_to_end import whole_lesson
from adapass.healing.settings import Settings
from adapass.healing.training import Batch, train
from adapass.healing.watch import Watch, deterministic
from adapass.progress import Progress

logger = logging.getLogger(__name__)
_MEASURED_STEPS = 3
_BLOCK_SHARE = 0.2
"""Share of the time for the layer-wise phase."""
_SLACK = 1.5
"""A run that takes so many times longer than planned is stopped with the best weights so far."""
_MOST_EPOCHS = 60


def heal(
    original: ir.Model,
    rewritten: ir.Model,
    fit_samples: Samples,
    *,
    seconds: float,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> ir.Model:
    """A trained copy of ``rewritten`` if that is closer to ``original`` on held-out samples, else itself.

    About ``seconds`` long. Labels are not read, and no sample beside ``fit_samples``.

    Raises:
        UsageError: torch is not installed, or ``seconds`` is not above 0.
        ModelError: an operator of ``rewritten`` has no torch twin.
        DataError: too few samples.

    """
    if not seconds > 0:
        raise UsageError(f"healing: {seconds} seconds given; more than 0 expected")
    base = replace(settings or Settings(), threads=threads)
    samples, planned = plan(original, rewritten, fit_samples, base, seconds=seconds, seed=seed)
    healed = distill(original, rewritten, samples, settings=planned, progress=progress, seed=seed)
    _tell(healed)
    return healed.model if healed.after < healed.before else rewritten


def plan(
    original: ir.Model,
    rewritten: ir.Model,
    samples: Samples,
    settings: Settings,
    *,
    seconds: float,
    seed: int,
) -> tuple[Samples, Settings]:
    """The rounds (and, where not even one fits, the part of the samples) that take about ``seconds``."""
    start = monotonic()
    parts, sizes = split(len(samples), settings.held_out, seed), lengths(samples)
    course = Course(original, samples, parts, sizes, settings, seed, Watch())
    with deterministic(settings.threads):
        each, steps = _step_seconds(course, rewritten)
    left = max(seconds - (monotonic() - start), 0.2 * seconds)
    rounds = left / (each * steps)
    if rounds < 2:
        # Half the data seen twice teaches more than all of it half a time.
        samples = _Some(samples, _spread(len(samples), max(rounds / 2, 0.02), settings.batch_size))
        rounds = 2.0
    blocks = min(max(math.floor(rounds * _BLOCK_SHARE), 1), settings.block_epochs)
    epochs = min(max(math.floor(rounds - blocks), 1), _MOST_EPOCHS)
    logger.info("healing: %.3f s a step, %s rounds of blocks, %s as a whole", each, blocks, epochs)
    return samples, replace(settings, block_epochs=blocks, epochs=epochs, max_seconds=_SLACK * seconds)


def _step_seconds(course: Course, rewritten: ir.Model) -> tuple[float, int]:
    """Of a median step, and how many a round has. ``rewritten`` stays as it is."""
    lesson = whole_lesson(course, rewritten)
    times: list[float] = []

    def timed(_done: int, _total: int) -> None:
        times.append(monotonic())

    def first(epoch: int) -> Iterable[Batch]:
        return islice(lesson.batches(epoch), _MEASURED_STEPS)

    few = replace(lesson, batches=first, epochs=1)
    train(replace(few, judge=lambda: 0.0), course.settings, course.watch, report=timed)
    between = np.diff(times)
    return (float(np.median(between)) if len(between) else 1e-3), lesson.steps


def _spread(count: int, share: float, least: int) -> Sequence[int]:
    kept = min(max(round(count * share), least, 2), count)
    return [int(i) for i in np.linspace(0, count - 1, kept).round()]


def _tell(healed: Healed) -> None:
    verdict = "kept" if healed.after < healed.before else "no better, so dropped"
    logger.info(
        "healing: held-out loss %.4g, %.4g before, %.0f s: %s",
        healed.after,
        healed.before,
        healed.seconds,
        verdict,
    )


@dataclass(frozen=True, slots=True)
class _Some:
    """A part of the samples."""

    whole: Samples
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def feeds(self, index: int) -> Feeds:
        return self.whole.feeds(self.rows[index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return self.whole.batch([self.rows[i] for i in indices])

    @property
    def labels(self) -> Array | None:
        return None
