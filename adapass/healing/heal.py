"""Healing within a time: what a driver calls once the plan that won is applied and fitted.

The time is turned into a number of steps first, by measuring a few; the steps are then taken to their end.
Two runs with the same number of steps give the same weights, whatever the clock says, so the number is what
has to be remembered: ``Healed.settings.steps``, and a checkpoint holds it too.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.errors import UsageError
from adapass.healing.checkpoint import steps_of
from adapass.healing.distill import BLOCK_SHARE, Healed, block_rounds, distill, enrolled
from adapass.healing.end_to_end import held_out_loss, whole_lesson
from adapass.healing.settings import Settings
from adapass.healing.training import train
from adapass.healing.watch import Watch, deterministic
from adapass.progress import Progress

logger = logging.getLogger(__name__)
_MEASURED_STEPS: Final = 6
_SLACK: Final = 1.5
"""A run that takes so many times longer than planned is stopped with the best weights so far."""
_MOST_STEPS: Final = 20_000


def heal(
    original: ir.Model,
    rewritten: ir.Model,
    fit_samples: Samples,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
    settings: Settings | None = None,
    checkpoint: str | Path | None = None,
) -> Healed:
    """``rewritten`` trained towards ``original`` if that helps on held-out samples, else a copy of it.

    ``steps`` says how long; without it, as many as take about ``seconds`` on this machine. With both,
    ``seconds`` is a limit, at which the best weights so far are kept. ``checkpoint`` names a file from which
    the same call goes on after an interruption; it also holds the number of steps. Labels are not read, and
    no sample beside ``fit_samples``.

    Raises:
        UsageError: torch is not installed, or neither ``steps`` nor ``seconds`` is given and above 0.
        ModelError: an operator of ``rewritten`` has no torch twin.
        DataError: too few samples, or a checkpoint of another run.

    """
    _check(steps, seconds)
    base = replace(settings or Settings(), threads=threads)
    limit = seconds
    if steps is None:
        assert seconds is not None  # one of the two is given
        limit = _SLACK * seconds
        steps = None if checkpoint is None else steps_of(Path(checkpoint))
        steps = steps or steps_within(original, rewritten, fit_samples, base, seconds=seconds, seed=seed)
    healed = distill(
        original,
        rewritten,
        fit_samples,
        settings=replace(base, steps=steps, max_seconds=limit),
        progress=progress,
        seed=seed,
        checkpoint=checkpoint,
    )
    _tell(healed)
    return healed


def steps_within(
    original: ir.Model,
    rewritten: ir.Model,
    samples: Samples,
    settings: Settings,
    *,
    seconds: float,
    seed: int = 0,
) -> int:
    """How many steps take about ``seconds``, all that comes before and between them included."""
    start = monotonic()
    with deterministic(settings.threads):
        course = enrolled(original, rewritten, samples, settings, seed=seed, watch=Watch())
        before = held_out_loss(course, rewritten)
        prepared = monotonic() - start
        lesson = whole_lesson(course, rewritten)
        times = [monotonic()]
        train(
            replace(lesson, steps=_MEASURED_STEPS, every=_MEASURED_STEPS, judge=lambda: 0.0),
            course.settings,
            course.watch,
            report=lambda _done, _total: times.append(monotonic()),
        )
        judged = monotonic()
        lesson.judge()
        judging = settings.judgements * (monotonic() - judged)
    each = float(np.median(np.diff(times)))
    left = max(seconds - 2 * prepared - judging, seconds / 4)
    if block_rounds(course, before, steps=1):
        left /= 1 + BLOCK_SHARE
    logger.info("healing: %.3f s a step, %.1f s for judgements", each, judging)
    return min(max(math.floor(left / each), 1), _MOST_STEPS)


def _check(steps: int | None, seconds: float | None) -> None:
    if steps is None and seconds is None:
        raise UsageError("healing needs to know how long: give steps or seconds")
    if steps is not None and steps < 1:
        raise UsageError(f"healing: {steps} steps given; at least 1 expected")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"healing: {seconds} seconds given; more than 0 expected")


def _tell(healed: Healed) -> None:
    logger.info(
        "healing: held-out loss %.4g, %.4g before, %.0f s: %s",
        healed.after,
        healed.before,
        healed.seconds,
        "kept" if healed.helped else "no better, so dropped",
    )
