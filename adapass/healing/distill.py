"""Distil the original into its pruned self: first block by block, then as a whole. No labels are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.data.inputs import input_specs, max_batch
from adapass.errors import UsageError
from adapass.healing.batches import lengths, split
from adapass.healing.blockwise import train_blocks
from adapass.healing.checkpoint import Checkpoint, State, run_key
from adapass.healing.course import Course
from adapass.healing.end_to_end import held_out_loss, train_whole
from adapass.healing.points import float_outputs
from adapass.healing.settings import Settings
from adapass.healing.training import Learned, packed, unpacked
from adapass.healing.watch import Watch, deterministic
from adapass.progress import Progress
from adapass.twin.build import build_twin
from adapass.twin.dtypes import to_array, to_tensor
from adapass.twin.torch_import import torch
from adapass.twin.write_back import update_weights

logger = logging.getLogger(__name__)
_PHASES = 2


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

    ``checkpoint`` names a file that is written after every round and from which the same call goes on
    after an interruption, with the same result; it is removed at the end.

    Raises:
        UsageError: torch is not installed, or the two models have different outputs.
        ModelError: an operator has no torch twin.
        DataError: too few samples, or a checkpoint of another run.

    """
    chosen = _fitting(original, Settings() if settings is None else settings)
    _check_outputs(original, pruned)
    build_twin(pruned)  # refuse before any work
    key = run_key(original, pruned, chosen, seed)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), key)
    watch = Watch(progress, chosen.max_seconds)
    parts, sizes = split(len(samples), chosen.held_out, seed), lengths(samples)
    course = Course(original, samples, parts, sizes, chosen, seed, watch)
    with deterministic(chosen.threads):
        healed = _run(course, pruned, saved)
    if saved is not None and not watch.time_is_up:
        saved.remove()
    logger.info("healing: held-out loss %.4g, %.4g before", healed.after, healed.before)
    return healed


def _run(course: Course, pruned: ir.Model, saved: Checkpoint | None) -> Healed:
    settings, watch = course.settings, course.watch
    state = None if saved is None else saved.load()
    model, before = pruned.clone(), held_out_loss(course, pruned)
    best, blocks = before, dict[str, Learned]()
    if settings.block_epochs and state is None and _same_inputs(course.original, model):
        watch.phase("healing block by block", 1, _PHASES)
        blocks.update(train_blocks(course, model))
        best = held_out_loss(course, model)
        model, best = (model, best) if best < before else (pruned.clone(), before)
        watch.best(f"held-out loss {best:.4g}, {before:.4g} before")
    whole = None
    if settings.epochs and not watch.time_is_up:
        watch.phase("healing as a whole", _PHASES, _PHASES)
        keeper = None if saved is None else _keeper(saved, model, state)
        whole = train_whole(course, model, save=keeper, resume=state)
        best = held_out_loss(course, model)
        watch.best(f"held-out loss {best:.4g}, {before:.4g} before")
    if not best < before:
        model, best = pruned.clone(), before
    return Healed(model, before, best, blocks, whole, watch.seconds)


def _keeper(saved: Checkpoint, model: ir.Model, state: State | None) -> Callable[[State], None]:
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
    return lambda now: saved.save(State({**now.arrays, "base": base}, now.numbers))


def _fitting(model: ir.Model, settings: Settings) -> Settings:
    most = max_batch(input_specs(model))
    return settings if most is None else replace(settings, batch_size=min(settings.batch_size, most))


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
