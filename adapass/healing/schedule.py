"""Prune a little, heal a little: a model cut in steps never falls far (Adapt-Pruner, Wang et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.errors import UsageError
from adapass.healing.distill import Healed, distill
from adapass.healing.settings import Settings
from adapass.progress import Progress

Prune = Callable[[ir.Model, int], ir.Model]
"""From the model healed so far and the number of the step (from 0), the model cut a little more."""


@dataclass(frozen=True, slots=True)
class Interleaved:
    """The last model, and what each step left of the loss."""

    model: ir.Model
    steps: Sequence[Healed]


def prune_and_heal(
    original: ir.Model,
    prune: Prune,
    samples: Samples,
    *,
    steps: int,
    settings: Settings | None = None,
    last: Settings | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Interleaved:
    """Cut and heal in turn, always towards ``original``; ``last`` are the settings of the last step.

    Raises:
        UsageError: fewer than one step.

    """
    if steps < 1:
        raise UsageError(f"prune_and_heal: {steps} steps asked for; at least 1 expected")
    current, done = original, list[Healed]()
    for step in range(steps):
        chosen = last if last is not None and step == steps - 1 else settings
        file = None if checkpoint is None else Path(checkpoint).with_suffix(f".{step}.npz")
        healed = distill(
            original,
            prune(current, step),
            samples,
            settings=chosen,
            progress=progress,
            seed=seed,  # the same samples are held out in all steps
            checkpoint=file,
        )
        current, done = healed.model, [*done, healed]
    return Interleaved(current, tuple(done))
