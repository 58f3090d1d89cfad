"""End-to-end distillation: the pruned model learns the original's outputs and values at the cut points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.execution import Session
from adapass.healing.batches import batched, rounds, shuffled, varied
from adapass.healing.blockwise import mean_loss
from adapass.healing.checkpoint import State
from adapass.healing.course import Course
from adapass.healing.objectives import hidden_loss, output_loss, outputs_loss
from adapass.healing.points import float_outputs, shared_points
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
    points = tuple(p.value for p in shared_points(original, pruned)) if settings.hidden_weight else ()
    twin = build_twin(pruned, outputs=(*outputs, *points))
    trainable = Trainable(twin, rank=settings.rank, keep_zeros=settings.keep_zeros, seed=seed)
    teacher = Session(original, outputs=(*outputs, *points), optimize=True, threads=settings.threads)
    judging = _judging(course, outputs)

    def loss(student: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        found = outputs_loss(student, wanted, outputs, settings.temperature)
        if not points:
            return found
        return found + settings.hidden_weight * hidden_loss(student, wanted, points)

    def batches(epoch: int) -> Iterable[Batch]:
        random = rounds(seed, epoch)
        for rows in shuffled(parts.train, sizes, settings.batch_size, random):
            feeds = varied(samples.batch(list(rows)), settings, random)
            yield feeds, teacher.run(feeds)

    def judge() -> float:
        return mean_loss(trainable, judging, outputs, classes=True)

    steps = len(shuffled(parts.train, sizes, settings.batch_size, np.random.default_rng(0)))
    return Lesson(trainable, batches, steps, loss, judge, settings.epochs, settings.rate)


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
