"""Layer-wise distillation: each block learns to make of its inputs what the original makes of its own.

    original   x -> [block 1] -> a1 -> [block 2] -> a2 -> ...
    pruned     x -> [block 1] -> b1 -> [block 2] -> b2 -> ...        block k:  |b_k - a_k| -> min

The inputs of a block are those of the pruned model with the blocks before it already trained, so each block
also corrects what the earlier ones could not. Only one block and its values are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.graph.extract import extract
from adapass.healing.batches import Integers, batched, rounds, total_bytes
from adapass.healing.course import Course
from adapass.healing.objectives import hidden_loss, output_loss, relative_error
from adapass.healing.points import block_ends, float_outputs, shared_points
from adapass.healing.trainable import Trainable
from adapass.healing.training import Batch, Learned, Lesson, train
from adapass.twin.build import build_twin
from adapass.twin.torch_import import Tensor, torch
from adapass.twin.write_back import update_weights


@dataclass(frozen=True, slots=True)
class Segment:
    """From what is known to the end of a block."""

    reads: tuple[str, ...]
    ends: tuple[str, ...]
    """What is compared: the block's value, or the outputs of the model for the last segment."""
    leaves: tuple[str, ...]
    """What is known afterwards: the value, its side values and the graph's inputs."""


def segments(original: ir.Model, pruned: ir.Model) -> tuple[Segment, ...]:
    """The model cut at its shared block ends, in order."""
    inputs = tuple(v.name or "" for v in original.graph.inputs if v.const_value is None)
    found: list[Segment] = []
    known = inputs
    for point in block_ends(shared_points(original, pruned)):
        leaves = tuple(dict.fromkeys((point.value, *point.side_values, *inputs)))
        found.append(Segment(known, (point.value,), leaves))
        known = leaves
    outputs = tuple(v.name or "" for v in original.graph.outputs)
    return (*found, Segment(known, float_outputs(original), outputs))


def train_blocks(course: Course, pruned: ir.Model) -> Mapping[str, Learned]:
    """Train the blocks of ``pruned`` in place, one after the other; losses by the value a block ends in."""
    settings, watch = course.settings, course.watch
    cut = segments(course.original, pruned)
    training, judging = _within_memory(course, cut)
    state = [course.samples.batch(list(rows)) for rows in (*training, *judging)]
    teacher = student = [_known(feeds, cut[0].reads) for feeds in state]
    learned: dict[str, Learned] = {}
    for index, segment in enumerate(cut):
        if watch.time_is_up:
            break
        teacher = _advanced(course.original, segment, teacher)
        targets = [_known(values, segment.ends) for values in teacher]
        pairs = list(zip(student, targets, strict=True))
        lesson = _lesson(course, pruned, segment, pairs[: len(training)], pairs[len(training) :])
        if lesson is not None:
            learned[segment.ends[0]] = train(lesson, settings, watch)
            lesson.trainable.fold()
            update_weights(pruned, lesson.trainable.twin)
        student = _advanced(pruned, segment, student)
        watch.step(index + 1, len(cut))
    return learned


def _lesson(
    course: Course,
    pruned: ir.Model,
    segment: Segment,
    training: Sequence[Batch],
    judging: Sequence[Batch],
) -> Lesson | None:
    """``None`` for a segment without weights."""
    settings, seed = course.settings, course.seed
    twin = build_twin(extract(pruned, segment.reads, segment.ends))
    trainable = Trainable(
        twin, rank=settings.rank, keep_zeros=settings.keep_zeros, frozen=course.frozen, seed=seed
    )
    if not trainable.free:
        return None

    def loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        return hidden_loss(student, teacher, [(end, end) for end in segment.ends])

    each = len(training)

    def batch(step: int) -> Batch:
        epoch, place = divmod(step, each)
        return training[int(rounds(seed, epoch).permutation(each)[place])]

    def judge() -> float:
        return mean_loss(trainable, judging, segment.ends)

    return Lesson(
        trainable, batch, each * (settings.block_epochs or 0), each, loss, judge, settings.block_rate
    )


def mean_loss(
    trainable: Trainable, batches: Sequence[Batch], names: Sequence[str], *, classes: bool = False
) -> float:
    """Held-out loss, weighed by samples: relative error, or with ``classes`` what judges the outputs."""
    total, rows = 0.0, 0
    measure = output_loss if classes else relative_error
    with torch.no_grad():
        for feeds, targets in batches:
            found = trainable.compute(feeds)
            count = len(next(iter(targets.values())))
            losses = [float(measure(found[n], torch.from_numpy(np.array(targets[n])))) for n in names]
            total += count * sum(losses) / len(losses)
            rows += count
    return total / rows


def _advanced(model: ir.Model, segment: Segment, states: Sequence[Feeds]) -> list[dict[str, Array]]:
    """What is known behind the segment, for every batch."""
    wanted = [name for name in segment.leaves if name not in segment.reads]
    if not wanted:
        return [_known(values, segment.leaves) for values in states]
    part = Session(extract(model, segment.reads, wanted), optimize=True)
    result: list[dict[str, Array]] = []
    for values in states:
        made = {**values, **part.run(_known(values, segment.reads))}
        result.append(_known(made, segment.leaves))
    return result


def _known(values: Feeds, names: Sequence[str]) -> dict[str, Array]:
    return {name: values[name] for name in names if name in values}


def _within_memory(course: Course, cut: Sequence[Segment]) -> tuple[list[Integers], list[Integers]]:
    """As many batches as fit, spread over all lengths: both models' values around the widest block."""
    size, parts = course.settings.batch_size, course.parts
    training, judging = batched(parts.train, course.sizes, size), batched(parts.held_out, course.sizes, size)
    longest = max((*training, *judging), key=lambda rows: int(course.sizes[rows].sum()))
    names = sorted({name for segment in cut for name in segment.leaves})
    values = Session(course.original, outputs=names).run(course.samples.batch(list(longest)))
    each = max(total_bytes([_known(values, segment.leaves)]) for segment in cut)
    most = max(course.settings.max_cache_bytes // (4 * each), 2)
    judging = _spread(judging, max(most // 5, 1))
    return _spread(training, most - len(judging)), judging


def _spread(batches: list[Integers], most: int) -> list[Integers]:
    if len(batches) <= most:
        return batches
    return [batches[i] for i in np.linspace(0, len(batches) - 1, max(most, 1)).round().astype(int)]
