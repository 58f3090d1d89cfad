"""Costs with their trust: how long something takes on a target, and where the number comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from adapass.target import Target


class Trust(IntEnum):
    """Where a number comes from; a sum is only as good as its worst part."""

    GUESS = 0
    MODEL = 1
    MEASURED = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What one operation does, independent of any device."""

    op: str
    dtype: str
    """A number format as targets name it: ``f32``, ``f16``, ``i8``, ..."""
    flops: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate. ``seconds`` is wall time on an otherwise idle device."""

    seconds: float
    trust: Trust

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, min(self.trust, other.trust))

    def __mul__(self, times: float) -> Cost:
        """The cost of doing it ``times`` times; a probability weighs it."""
        return Cost(self.seconds * times, self.trust)


FREE: Final = Cost(0.0, Trust.MEASURED)


class CostModel(Protocol):
    """Prices one operation; ``None`` when it has nothing to say, never a guessed zero."""

    def price(self, work: Work, target: Target, threads: int | None = None) -> Cost | None: ...


@dataclass(frozen=True, slots=True)
class FirstThatKnows:
    """Ask each model in order: measured tables first, then analytic models."""

    models: tuple[CostModel, ...]

    def price(self, work: Work, target: Target, threads: int | None = None) -> Cost | None:
        prices = (model.price(work, target, threads) for model in self.models)
        return next((cost for cost in prices if cost is not None), None)


def total(
    model: CostModel, works: Iterable[Work], target: Target, threads: int | None = None
) -> tuple[Cost, tuple[Work, ...]]:
    """The sum of what ``model`` could price, and the operations it could not."""
    cost = FREE
    unknown: list[Work] = []
    for work in works:
        price = model.price(work, target, threads)
        if price is None:
            unknown.append(work)
        else:
            cost += price
    return cost, tuple(unknown)
