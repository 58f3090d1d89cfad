"""One training run: AdamW along a warm cosine, the best weights on the held-out samples kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from adapass.budgeted import Array, Feeds
from adapass.healing.checkpoint import State
from adapass.healing.settings import Settings
from adapass.healing.trainable import Trainable
from adapass.healing.watch import Watch
from adapass.twin.torch_import import Tensor, torch

logger = logging.getLogger(__name__)

Batch = tuple[Feeds, Feeds]
"""Inputs, and what the original makes of them."""
WARM_SHARE: Final = 0.05
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned, from what, and how it is judged."""

    trainable: Trainable
    batches: Callable[[int], Iterable[Batch]]
    """The batches of a round."""
    steps: int
    """How many batches a round has."""
    loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    """Of the student's values against the original's."""
    judge: Callable[[], float]
    """The held-out loss of the weights as they are."""
    epochs: int
    rate: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run achieved, by its held-out losses."""

    before: float
    after: float
    steps: int
    losses: Sequence[float] = field(default_factory=tuple)
    """After each round."""


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
    total = lesson.steps * lesson.epochs
    while run.epoch < lesson.epochs and not run.is_over(watch):
        for feeds, targets in lesson.batches(run.epoch):
            run.learn(feeds, targets, total)
            if report is not None:
                report(run.steps, total)
            if run.failed or watch.time_is_up:
                break
        run.epoch += 1
        run.judge()
        if save is not None and not watch.time_is_up:
            save(run.state())
    lesson.trainable.load(run.best_weights)
    return Learned(run.losses[0], run.best, run.steps, tuple(run.losses[1:]))


class _Run:
    def __init__(self, lesson: Lesson, settings: Settings) -> None:
        self._lesson = lesson
        self._settings = settings
        self._free = list(lesson.trainable.free.values())
        # Adam moves every number by about the learning rate, which would tear layers of small weights
        # apart where it is right for others; so each tensor has its own (Shazeer and Stern 2018).
        groups = [
            {"params": [tensor], "size": lesson.trainable.sizes[name]}
            for name, tensor in lesson.trainable.free.items()
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=lesson.rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
        )
        self.epoch = 0
        self.steps = 0
        self.losses: list[float] = []
        self.best = math.inf
        self.best_weights = lesson.trainable.state()
        self.failed = False
        self._since_best = 0

    def is_over(self, watch: Watch) -> bool:
        patience = self._settings.patience
        return self.failed or watch.time_is_up or bool(patience and self._since_best >= patience)

    def learn(self, feeds: Feeds, targets: Feeds, total: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._lesson.rate * group["size"] * _cosine(self.steps, total)
        self._optimizer.zero_grad()
        wanted = {name: torch.from_numpy(np.array(x)) for name, x in targets.items()}
        loss = self._lesson.loss(self._lesson.trainable.compute(feeds), wanted)
        if not bool(torch.isfinite(loss)):
            logger.warning("healing: the loss is %s after %s steps; the best weights stay", loss, self.steps)
            self.failed = True
            return
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._free, self._settings.clip_norm)
        self._optimizer.step()
        self._lesson.trainable.restore_zeros()
        self.steps += 1

    def judge(self) -> None:
        loss = self._lesson.judge()
        self.losses.append(loss)
        self._since_best += 1
        if loss < self.best:
            self.best, self.best_weights, self._since_best = loss, self._lesson.trainable.state(), 0

    def state(self) -> State:
        arrays = {
            "weights": packed(self._lesson.trainable.state()),
            "best": packed(self.best_weights),
            "first": packed(self._moments("exp_avg")),
            "second": packed(self._moments("exp_avg_sq")),
            "losses": np.array(self.losses),
        }
        numbers = {"epoch": self.epoch, "steps": self.steps, "since_best": self._since_best}
        return State(arrays, numbers)

    def restore(self, state: State) -> None:
        trainable = self._lesson.trainable
        like = trainable.state()
        trainable.load(unpacked(state.arrays["weights"], like))
        self.best_weights = unpacked(state.arrays["best"], like)
        self.losses = [float(loss) for loss in state.arrays["losses"]]
        self.best = min(self.losses)
        self.epoch, self.steps = int(state.numbers["epoch"]), int(state.numbers["steps"])
        self._since_best = int(state.numbers["since_best"])
        first, second = (unpacked(state.arrays[name], like) for name in ("first", "second"))
        for name, tensor in trainable.free.items():
            self._optimizer.state[tensor] = {
                "step": torch.tensor(float(self.steps)),
                "exp_avg": torch.from_numpy(np.array(first[name])),
                "exp_avg_sq": torch.from_numpy(np.array(second[name])),
            }

    def _moments(self, key: str) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, tensor in self._lesson.trainable.free.items():
            moment = self._optimizer.state.get(tensor, {}).get(key)
            found[name] = (torch.zeros_like(tensor) if moment is None else moment).detach().numpy()
        return found


def _cosine(step: int, total: int) -> float:
    warm = max(round(total * WARM_SHARE), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


def packed(arrays: Mapping[str, Array]) -> Array:
    """One vector: archives with hundreds of members are refused when they are read."""
    return np.concatenate([x.reshape(-1) for x in arrays.values()]) if arrays else np.zeros(0, np.float32)


def unpacked(vector: Array, like: Mapping[str, Array]) -> dict[str, Array]:
    ends = np.cumsum([x.size for x in like.values()])
    parts = np.split(vector, ends[:-1])
    return {
        name: part.reshape(x.shape).astype(x.dtype)
        for (name, x), part in zip(like.items(), parts, strict=True)
    }
