"""Random allocation problems, and all that each allows, in exact arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adapass.search.allocate import (
    Interaction,
    Option,
    Problem,
)
from adapass.search.allocate_problem import Implication

SECONDS, DAMAGE, BYTES = 1e-5, 1e-6, 1e6
TICK = 2.0**-24
"""Sums of ticks are exact, so ties are ties."""


@dataclass(frozen=True)
class Point:
    """One way to choose, with sums that are exact before they are rounded once."""

    chosen: frozenset[str]
    saving: float
    damage: float
    use: float


def enumerate_points(problem: Problem) -> Iterator[Point]:
    """All that the pairs allow, written down a second time and as plainly as possible."""
    slots: dict[str, list[str | None]] = {}
    for option in problem.options:
        slots.setdefault(option.slot, [None]).append(option.key)
    for row in itertools.product(*slots.values()):
        chosen = frozenset(key for key in row if key is not None)
        if any(a in chosen and b in chosen for a, b in problem.exclusions):
            continue
        if any(
            a in chosen and not chosen & set([b] if isinstance(b, str) else b)
            for a, b in problem.implications
        ):
            continue
        parts: list[Option | Interaction] = [option for option in problem.options if option.key in chosen]
        parts += [pair for pair in problem.interactions if {pair.first, pair.second} <= chosen]
        yield Point(
            chosen,
            exact_sum(part.saving for part in parts),
            exact_sum(part.damage for part in parts),
            exact_sum(part.use.get("bytes", 0.0) for part in parts),
        )


def exact_sum(values: Iterator[float]) -> float:
    return float(sum((Fraction(value) for value in values), Fraction(0)))


def random_problem(seed: int) -> Problem:
    """Up to five slots of up to three settings; every second one with many ties."""
    rng = np.random.default_rng(seed)
    draw = _ticks if seed % 2 else _continuous
    options = tuple(
        Option(
            f"{slot}.{number}",
            f"slot {slot}",
            draw(rng, SECONDS),
            draw(rng, DAMAGE),
            {"bytes": draw(rng, BYTES)} if rng.random() < 0.7 else {},
        )
        for slot in range(rng.integers(1, 6))
        for number in range(rng.integers(1, 4))
    )
    pairs = [(a, b) for a, b in itertools.combinations(options, 2) if a.slot != b.slot]
    interactions = tuple(
        Interaction(a.key, b.key, draw(rng, SECONDS), draw(rng, DAMAGE), {"bytes": draw(rng, BYTES)})
        for a, b in pairs
        if rng.random() < 0.15
    )
    exclusions = tuple((b.key, a.key) for a, b in pairs if rng.random() < 0.07)
    implications = tuple(_implications(rng, [option.key for option in options]))
    return Problem(options, exclusions, implications, interactions)


def _continuous(rng: np.random.Generator, scale: float) -> float:
    return float(scale * rng.lognormal(0, 1) * (1 if rng.random() < 0.75 else -1))


def _ticks(rng: np.random.Generator, scale: float) -> float:
    return float(rng.integers(-2, 5)) * TICK * 2.0 ** round(math.log2(scale / SECONDS))


def _implications(rng: np.random.Generator, keys: Sequence[str]) -> Iterator[Implication]:
    for _ in range(rng.integers(0, 3)):
        first, second, third = rng.choice(keys, 3).tolist()
        yield (first, second) if rng.random() < 0.5 else (first, (second, third))
