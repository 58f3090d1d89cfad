"""One training run along a warm cosine: running means of the weights, the best of them kept.

The means (Polyak and Juditsky 1992) are what is judged and kept: they are closer to the original than the
weights they are means of, at any time of the run. A run that has only got further away by the time a quarter
of it is over goes back to where it began with a quarter of the learning rate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from adapass.budgeted import Array, Feeds
from adapass.healing.checkpoint import State
from adapass.healing.optimizer import Optimizer
from adapass.healing.settings import Settings
from adapass.healing.trainable import Trainable
from adapass.healing.watch import Watch
from adapass.twin.torch_import import Tensor, torch

logger = logging.getLogger(__name__)

Batch = tuple[Feeds, Feeds]
"""Inputs, and what the original makes of them."""
WARM_SHARE: Final = 0.05
"""Share of the steps over which the learning rate rises."""
_GIVEN_A_CHANCE: Final = 0.25
"""Share of the steps after which something must have become better."""
_SLOWER: Final = 4.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned, from what, and how it is judged."""

    trainable: Trainable
    batch: Callable[[int], Batch]
    """The batch of a step."""
    steps: int
    every: int
    """Steps from one judgement to the next."""
    loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    """Of the student's values against the original's."""
    judge: Callable[[], float]
    """The held-out loss of the weights as they are."""
    rate: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run achieved, by its held-out losses."""

    before: float
    after: float
    steps: int
    losses: Sequence[float] = field(default_factory=tuple)
    """At each judgement."""


def train(
    lesson: Lesson,
    settings: Settings,
    watch: Watch,
    *,
    report: Callable[[int, int], None] | None = None,
    save: Callable[[State], None] | None = None,
    resume: State | None = None,
) -> Learned:
    """Train in place and leave the best weights found; the weights as they are count as found."""
    run = _Run(lesson, settings)
    if resume is None:
        run.judge()
    else:
        run.restore(resume)
    while run.steps < lesson.steps and not run.is_over(watch):
        run.learn()
        if report is not None:
            report(run.steps, lesson.steps)
        due = run.steps % lesson.every == 0 or run.steps == lesson.steps
        if not (due or run.failed or watch.time_is_up):
            continue
        run.judge()
        if not run.failed and run.has_only_become_worse:
            run.begin_again()
        if report is not None:
            watch.best(f"held-out loss {run.best:.4g}, {run.losses[0]:.4g} before")
        if due and save is not None and not run.failed:
            save(run.state())
    lesson.trainable.load(run.best_weights)
    return Learned(run.losses[0], run.best, run.steps, tuple(run.losses[1:]))


class _Run:
    def __init__(self, lesson: Lesson, settings: Settings) -> None:
        self._lesson = lesson
        self._settings = settings
        self._free = list(lesson.trainable.free.values())
        self._optimizer = self._new_optimizer()
        self._means = [tensor.detach().clone() for tensor in self._free]
        self.steps = 0
        self.begun = 0
        """The step the present attempt began at."""
        self.slower = 1.0
        self.losses: list[float] = []
        self.best = math.inf
        self.best_weights = lesson.trainable.state()
        self.failed = False
        self._since_best = 0

    def _new_optimizer(self) -> Optimizer:
        trainable = self._lesson.trainable
        return Optimizer(trainable.free, trainable.sizes, weight_decay=self._settings.weight_decay)

    def is_over(self, watch: Watch) -> bool:
        patience = self._settings.patience
        return self.failed or watch.time_is_up or bool(patience and self._since_best >= patience)

    @property
    def has_only_become_worse(self) -> bool:
        done, left = self.steps - self.begun, self._lesson.steps - self.steps
        tried = done >= _GIVEN_A_CHANCE * (done + left) and left > 0
        return tried and not self.best < self.losses[0]

    def begin_again(self) -> None:
        self.slower *= _SLOWER
        self.begun = self.steps
        logger.info("healing: no better after %s steps; again, %s times slower", self.steps, self.slower)
        self._lesson.trainable.load(self.best_weights)
        self._optimizer = self._new_optimizer()
        self._means = [tensor.detach().clone() for tensor in self._free]

    def learn(self) -> None:
        rate = self._lesson.rate / self.slower
        share = cosine(self.steps - self.begun, self._lesson.steps - self.begun)
        self._optimizer.clear()
        feeds, targets = self._lesson.batch(self.steps)
        wanted = {name: torch.from_numpy(np.array(x)) for name, x in targets.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(self._settings.mixed)):
            student = self._lesson.trainable.compute(feeds)
        loss = self._lesson.loss({name: _widened(x) for name, x in student.items()}, wanted)
        if not bool(torch.isfinite(loss)):
            logger.warning("healing: the loss is %s after %s steps; the best weights stay", loss, self.steps)
            self.failed = True
            return
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._free, self._settings.clip_norm)
        self._optimizer.step(rate * share)
        self._lesson.trainable.restore_zeros()
        self.steps += 1
        self._average()

    def _average(self) -> None:
        """Over few steps at first, so that the means do not lag behind."""
        done = self.steps - self.begun
        span = max(min(self._settings.average * self._lesson.steps, done / 4), 1.0)
        with torch.no_grad():
            for mean, tensor in zip(self._means, self._free, strict=True):
                mean.lerp_(tensor, 1 / span)

    def judge(self) -> None:
        with self._averaged():
            loss = self._lesson.judge()
            self.losses.append(loss)
            self._since_best += 1
            if loss < self.best:
                self.best, self.best_weights, self._since_best = loss, self._lesson.trainable.state(), 0

    @contextmanager
    def _averaged(self) -> Generator[None]:
        """The means in the place of the weights."""
        own = [tensor.detach().clone() for tensor in self._free]
        _put(self._free, self._means)
        try:
            yield
        finally:
            _put(self._free, own)

    def state(self) -> State:
        arrays = {
            "weights": packed(self._lesson.trainable.state()),
            "means": packed(self._named(self._means)),
            "best": packed(self.best_weights),
            "first": packed(_arrays(self._optimizer.first)),
            "second": packed(_arrays(self._optimizer.second)),
            "losses": np.array(self.losses),
        }
        numbers = {
            "steps": self.steps,
            "begun": self.begun,
            "slower": self.slower,
            "since_best": self._since_best,
        }
        return State(arrays, numbers)

    def restore(self, state: State) -> None:
        trainable = self._lesson.trainable
        like = trainable.state()
        trainable.load(unpacked(state.arrays["weights"], like))
        means = unpacked(state.arrays["means"], like)
        self._means = [torch.from_numpy(np.array(means[name])) for name in trainable.free]
        self.best_weights = unpacked(state.arrays["best"], like)
        self.losses = [float(loss) for loss in state.arrays["losses"]]
        self.best = min(self.losses)
        self.steps, self.begun = int(state.numbers["steps"]), int(state.numbers["begun"])
        self.slower = state.numbers["slower"]
        self._since_best = int(state.numbers["since_best"])
        self._optimizer.steps = self.steps - self.begun
        for key, moments in (("first", self._optimizer.first), ("second", self._optimizer.second)):
            for name, array in unpacked(state.arrays[key], _arrays(moments)).items():
                moments[name].copy_(torch.from_numpy(array))

    def _named(self, tensors: Sequence[Tensor]) -> dict[str, Array]:
        return _arrays(dict(zip(self._lesson.trainable.free, tensors, strict=True)))


def _put(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for place, value in zip(places, values, strict=True):
            place.copy_(value)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _widened(x: Tensor) -> Tensor:
    """Losses are computed in single precision."""
    return x.float() if x.dtype == torch.bfloat16 else x


def cosine(step: int, total: int) -> float:
    """Share of the learning rate at a step: it rises in a line, then falls to nothing."""
    warm = max(round(total * WARM_SHARE), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


def packed(arrays: Mapping[str, Array]) -> Array:
    """One vector: archives with hundreds of members are refused when they are read."""
    return np.concatenate([x.reshape(-1) for x in arrays.values()]) if arrays else np.zeros(0, np.float32)


def unpacked(vector: Array, like: Mapping[str, Array]) -> dict[str, Array]:
    if not like:
        return {}
    ends = np.cumsum([x.size for x in like.values()])
    parts = np.split(vector, ends[:-1])
    return {
        name: part.reshape(x.shape).astype(x.dtype)
        for (name, x), part in zip(like.items(), parts, strict=True)
    }
