"""Distil the original into its pruned self: first block by block, then as a whole. No labels are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.data.inputs import input_specs, max_batch
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.healing.batches import lengths, split
from adapass.healing.blockwise import train_blocks
from adapass.healing.checkpoint import Checkpoint, State, run_key
from adapass.healing.course import Course
from adapass.healing.end_to_end import held_out_loss, train_whole
from adapass.healing.points import float_outputs
from adapass.healing.precision import can_mix
from adapass.healing.settings import Settings
from adapass.healing.tables import embedding_tables
from adapass.healing.training import Learned, packed, unpacked
from adapass.healing.variations import NOTHING, Variations, admitted_variations
from adapass.healing.watch import Watch, deterministic
from adapass.progress import Progress
from adapass.twin.build import build_twin
from adapass.twin.dtypes import to_array, to_tensor
from adapass.twin.torch_import import torch
from adapass.twin.write_back import update_weights

logger = logging.getLogger(__name__)
_PHASES: Final = 2
_ROUNDING: Final = 1e-6
_FAR: Final = 1.0
"""From this held-out loss on (nothing was fitted), blocks are trained alone before the whole is."""
BLOCK_SHARE: Final = 0.25
"""How many rounds of that, compared with those of the whole."""


@dataclass(frozen=True, slots=True)
class Healed:
    """A trained copy, and what it took."""

    model: ir.Model
    before: float
    """Held-out loss of the model handed in: divergence of class scores in nats, or relative error."""
    after: float
    """That of the trained copy; at most ``before``: where nothing helped, the copy is the model itself."""
    blocks: Mapping[str, Learned]
    """The layer-wise phase, by the value each block ends in: relative errors."""
    whole: Learned | None
    """The end-to-end phase, by the held-out loss."""
    seconds: float
    settings: Settings
    """What was decided on the way included: the number of steps, and whether products were mixed."""
    recognised: Mapping[str, float]
    """By kind of variation, the share of varied samples that the original recognised."""
    stopped: bool
    """Whether time ended it before all its steps were done: then another run need not give the same."""

    @property
    def helped(self) -> bool:
        return _is_better(self.after, self.before)

    def to_json(self) -> dict[str, object]:
        """What a report or manifest says about it."""
        return {
            "held_out_before": self.before,
            "held_out_after": self.after,
            "helped": self.helped,
            "steps": self.settings.steps,
            "steps_done": 0 if self.whole is None else self.whole.steps,
            "block_epochs": self.settings.block_epochs,
            "mixed_precision": bool(self.settings.mixed),
            "recognised_variations": {name: round(share, 4) for name, share in self.recognised.items()},
            "held_out_losses": [] if self.whole is None else list(self.whole.losses),
            "seconds": round(self.seconds, 1),
            "stopped": self.stopped,
        }


def distill(
    original: ir.Model,
    pruned: ir.Model,
    samples: Samples,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Healed:
    """A copy of ``pruned`` trained to do what ``original`` does on ``samples``.

    ``checkpoint`` names a file that is written at every judgement and from which the same call goes on
    after an interruption, with the same result; it is removed at the end.

    Raises:
        UsageError: torch is not installed, or the two models have different outputs.
        ModelError: an operator has no torch twin.
        DataError: too few samples, or a checkpoint of another run.

    """
    chosen = settings or Settings()
    watch = Watch(progress, chosen.max_seconds)
    with deterministic(chosen.threads):
        course = enrolled(original, pruned, samples, chosen, seed=seed, watch=watch)
        key = run_key(original, pruned, course.settings, seed)
        saved = None if checkpoint is None else Checkpoint(Path(checkpoint), key)
        healed = _run(course, pruned, saved)
    if saved is not None and not healed.stopped:
        saved.remove()
    logger.info("healing: held-out loss %.4g, %.4g before", healed.after, healed.before)
    return healed


def enrolled(
    original: ir.Model, pruned: ir.Model, samples: Samples, settings: Settings, *, seed: int, watch: Watch
) -> Course:
    """All that is decided before the first step; refuses before any work.

    Raises:
        UsageError, ModelError, DataError: as ``distill``.

    """
    _check_outputs(original, pruned)
    build_twin(pruned)
    most = max_batch(input_specs(original))
    size = settings.batch_size if most is None else min(settings.batch_size, most)
    parts, sizes = split(len(samples), settings.held_out, seed), lengths(samples)
    outputs = float_outputs(original)
    feeds = samples.batch([int(row) for row in parts.held_out[:size]])
    mixed = can_mix(pruned, feeds, outputs) if settings.mixed is None else settings.mixed
    chosen = replace(settings, batch_size=size, mixed=mixed)
    frozen = frozenset[str]() if settings.tables else embedding_tables(pruned)
    variations = _variations(original, samples, chosen, seed) if settings.vary else NOTHING
    return Course(original, samples, parts, sizes, chosen, seed, watch, variations, frozen)


def _variations(original: ir.Model, samples: Samples, settings: Settings, seed: int) -> Variations:
    teacher = Session(original, optimize=True, threads=settings.threads)
    rows = split(len(samples), settings.held_out, seed).train
    output = float_outputs(original)[0]
    found = admitted_variations(teacher, output, samples, rows, settings.batch_size, seed)
    for name, share in found.recognised.items():
        verdict = "used" if name in found.admitted else "left out"
        logger.info("healing: the original recognises %.0f %% after '%s': %s", 100 * share, name, verdict)
    return found


def _run(course: Course, pruned: ir.Model, saved: Checkpoint | None) -> Healed:
    settings, watch = course.settings, course.watch
    state = None if saved is None else saved.load()
    model, before = pruned.clone(), held_out_loss(course, pruned)
    settings = replace(settings, block_epochs=block_rounds(course, before, steps=settings.steps))
    best, blocks = before, dict[str, Learned]()
    if settings.block_epochs and state is None and _same_inputs(course.original, model):
        watch.phase("healing block by block", 1, _PHASES)
        blocks.update(train_blocks(replace(course, settings=settings), model))
        best = held_out_loss(course, model)
        model, best = (model, best) if _is_better(best, before) else (pruned.clone(), before)
        watch.best(f"held-out loss {best:.4g}, {before:.4g} before")
    whole = None
    if settings.steps and not watch.time_is_up:
        watch.phase("healing as a whole", _PHASES, _PHASES)
        keeper = None if saved is None else _keeper(saved, model, state, settings.steps)
        whole = train_whole(course, model, save=keeper, resume=state)
        best = held_out_loss(course, model)
        watch.best(f"held-out loss {best:.4g}, {before:.4g} before")
    if not _is_better(best, before):
        model, best = pruned.clone(), before
    stopped = watch.time_is_up and (0 if whole is None else whole.steps) < settings.steps
    shares = course.variations.recognised
    return Healed(model, before, best, blocks, whole, watch.seconds, settings, shares, stopped)


def _is_better(after: float, before: float) -> bool:
    """By more than rounding does."""
    return before - after > _ROUNDING


def block_rounds(course: Course, loss: float, *, steps: int) -> int:
    """How many rounds over the data each block is trained alone, for a model of this held-out loss."""
    if course.settings.block_epochs is not None:
        return course.settings.block_epochs
    if loss < _FAR:
        return 0
    each = max(len(course.parts.train) // course.settings.batch_size, 1)
    return max(round(BLOCK_SHARE * steps / each), 1)


def _keeper(saved: Checkpoint, model: ir.Model, state: State | None, planned: int) -> Callable[[State], None]:
    """Saves a run together with the weights it began with, which a resumed one gets back first."""
    twin = build_twin(model)
    names = list(twin.weights)
    if state is not None:
        like = {name: to_array(twin.parameter(name)) for name in names}
        with torch.no_grad():
            for name, array in unpacked(state.arrays["base"], like).items():
                twin.parameter(name).copy_(to_tensor(array))
        update_weights(model, twin)
    base = packed({name: to_array(twin.parameter(name)) for name in names})
    return lambda now: saved.save(State({**now.arrays, "base": base}, {**now.numbers, "planned": planned}))


def _same_inputs(original: ir.Model, pruned: ir.Model) -> bool:
    """Blocks that read more than the original has (run-time knobs) cannot be cut out alike."""
    return {v.name for v in original.graph.inputs} == {v.name for v in pruned.graph.inputs}


def _check_outputs(original: ir.Model, pruned: ir.Model) -> None:
    ours, theirs = float_outputs(original), float_outputs(pruned)
    if not ours or ours != theirs:
        raise UsageError(
            f"healing compares floating-point outputs; the original has {list(ours)}, "
            f"the rewritten model {list(theirs)}; the same names expected"
        )
