"""End-to-end distillation: the pruned model learns the original's outputs and block values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import onnx_ir as ir

from adapass.execution import Session
from adapass.healing.batches import Integers, batched, draws, rounds, shuffled
from adapass.healing.blockwise import mean_loss
from adapass.healing.checkpoint import State
from adapass.healing.course import Course
from adapass.healing.objectives import hidden_loss, output_loss, outputs_loss
from adapass.healing.points import compared, float_outputs
from adapass.healing.teacher import Teacher
from adapass.healing.trainable import Trainable
from adapass.healing.training import Batch, Learned, Lesson, train
from adapass.twin.build import build_twin
from adapass.twin.dtypes import to_tensor
from adapass.twin.torch_import import Tensor
from adapass.twin.write_back import update_weights


def train_whole(
    course: Course,
    pruned: ir.Model,
    *,
    save: Callable[[State], None] | None = None,
    resume: State | None = None,
) -> Learned:
    """Train ``pruned`` in place."""
    lesson, watch = whole_lesson(course, pruned), course.watch
    learned = train(lesson, course.settings, watch, report=watch.step, save=save, resume=resume)
    lesson.trainable.fold()
    update_weights(pruned, lesson.trainable.twin)
    return learned


def whole_lesson(course: Course, pruned: ir.Model) -> Lesson:
    """What ``train_whole`` trains on."""
    original, samples, parts, sizes = course.original, course.samples, course.parts, course.sizes
    settings, seed = course.settings, course.seed
    outputs = float_outputs(original)
    pairs = compared(original, pruned) if settings.hidden_weight else ()
    twin = build_twin(pruned, outputs=(*outputs, *(ours for ours, _ in pairs)))
    trainable = Trainable(
        twin, rank=settings.rank, keep_zeros=settings.keep_zeros, frozen=course.frozen, seed=seed
    )
    like = samples.batch([int(row) for row in parts.held_out[: settings.batch_size]])
    teacher = Teacher(
        original,
        (*outputs, *(theirs for _, theirs in pairs)),
        threads=settings.threads,
        like=like if settings.mixed else None,
    )
    judging = _judging(course, outputs)

    def loss(student: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        found = outputs_loss(student, wanted, outputs, settings.temperature)
        if not pairs:
            return found
        return found + settings.hidden_weight * hidden_loss(student, wanted, pairs)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> tuple[Integers, ...]:
        return tuple(shuffled(parts.train, sizes, settings.batch_size, rounds(seed, epoch)))

    each = len(order(0))

    def batch(step: int) -> Batch:
        epoch, place = divmod(step, each)
        feeds = course.variations.batch(samples, order(epoch)[place], draws(seed, step))
        return feeds, teacher.run(feeds)

    def judge() -> float:
        return mean_loss(trainable, judging, outputs, classes=True)

    every = max(settings.steps // settings.judgements, 1)
    return Lesson(trainable, batch, settings.steps, every, loss, judge, settings.rate)


def held_out_loss(course: Course, model: ir.Model) -> float:
    """What judges a model: how far its outputs are from the original's on the held-out samples."""
    outputs = float_outputs(course.original)
    student = Session(model, outputs=outputs, optimize=True)
    total, rows = 0.0, 0
    for feeds, wanted in _judging(course, outputs):
        found = student.run(feeds)
        count = len(next(iter(wanted.values())))
        pairs = [(to_tensor(found[n]), to_tensor(wanted[n])) for n in outputs]
        total += count * sum(float(output_loss(a, b)) for a, b in pairs) / len(pairs)
        rows += count
    return total / rows


def _judging(course: Course, outputs: Sequence[str]) -> list[Batch]:
    teacher = Session(course.original, outputs=outputs, optimize=True)
    batches = batched(course.parts.held_out, course.sizes, course.settings.batch_size)
    every = [course.samples.batch(list(rows)) for rows in batches]
    return [(feeds, teacher.run(feeds)) for feeds in every]
