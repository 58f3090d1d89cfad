"""Variations of arrays of floating-point numbers: images, spectra, series, plain features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adapass.budgeted import Array, Feeds, Samples
from adapass.healing.batches import Integers

LONG: Final = 8
"""Axes of at least this size are positions; shorter ones (colours) are not moved."""
SHIFTED: Final = 16
"""A shift moves by at most the size over this."""
MIX, PATCH = "mix", "patch"
_MIXED: Final = 0.5
_PATCHED: Final = 0.25


@dataclass(frozen=True, slots=True)
class Numbers:
    """For models whose every input is an array of numbers."""

    axes: tuple[int, ...]
    """That can be flipped and shifted: long in all inputs."""

    @classmethod
    def of(cls, samples: Samples, rows: Integers) -> Numbers | None:
        feeds = samples.feeds(int(rows[0]))
        arrays = list(feeds.values())
        if not arrays or any(x.dtype.kind != "f" or x.ndim < 2 for x in arrays):
            return None
        rank = min(x.ndim for x in arrays)
        if rank < 3:
            return cls(())  # features have no neighbours
        return cls(tuple(a for a in range(1, rank) if all(x.shape[a] >= LONG for x in arrays)))

    @property
    def names(self) -> tuple[str, ...]:
        moved = [f"{way} {axis}" for way in ("flip", "shift") for axis in self.axes]
        return (*moved, MIX, *((PATCH,) if self.axes else ()))

    def batch(
        self,
        samples: Samples,
        rows: Integers,
        kinds: Sequence[str],
        random: np.random.Generator,
        *,
        every: bool = False,
    ) -> tuple[Feeds, Integers]:
        """Varied samples, and which other one of the batch each was mixed with (perhaps itself).

        ``every`` varies all samples, as when a kind is measured, instead of some.
        """
        feeds = dict(samples.batch([int(row) for row in rows]))
        count = len(rows)
        for axis in self.axes:
            turned, moved = every | (random.random(count) < 0.5), random.random(count)
            if f"flip {axis}" in kinds:
                feeds = {name: _flipped(x, axis, turned) for name, x in feeds.items()}
            if f"shift {axis}" in kinds:
                feeds = {name: _shifted(x, axis, moved) for name, x in feeds.items()}
        partner = random.permutation(count).astype(np.int64)
        parts, which = random.random(count), random.random(count)
        corners = random.random((count, len(self.axes)))
        mixed = np.full(count, MIX in kinds) & (every | (which < _MIXED))
        patched = np.full(count, PATCH in kinds) & ~mixed & (every | (which >= 1 - _PATCHED))
        feeds = {name: _mixed(x, partner, mixed, parts) for name, x in feeds.items()}
        feeds = {name: self._patched(x, partner, patched, parts, corners) for name, x in feeds.items()}
        return feeds, partner

    def _patched(self, x: Array, partner: Integers, where: Array, parts: Array, corners: Array) -> Array:
        """A block of the partner in its place, as large a share of the whole as ``parts`` says."""
        result = x.copy()
        for i in np.flatnonzero(where):
            block: list[slice] = [slice(None)] * (x.ndim - 1)
            for k, axis in enumerate(self.axes):
                size = x.shape[axis]
                wide = max(round(size * float(parts[i]) ** (1 / len(self.axes))), 1)
                start = int(float(corners[i, k]) * (size - wide + 1))
                block[axis - 1] = slice(start, start + wide)
            result[i][tuple(block)] = x[partner[i]][tuple(block)]
        return result


def _flipped(x: Array, axis: int, turned: Array) -> Array:
    result = x.copy()
    which = np.flatnonzero(turned)
    result[which] = np.flip(x[which], axis)
    return result


def _shifted(x: Array, axis: int, moved: Array) -> Array:
    """The edge fills what comes in."""
    size = x.shape[axis]
    most = max(size // SHIFTED, 1)
    by = np.floor(moved.astype(np.float64) * (2 * most + 1)).astype(np.int64) - most
    result = np.empty_like(x)
    for i in range(len(by)):
        places: Integers = np.clip(np.arange(size, dtype=np.int64) + int(by[i]), 0, size - 1)
        result[i] = np.take(x[i], places, axis=axis - 1)
    return result


def _mixed(x: Array, partner: Integers, where: Array, parts: Array) -> Array:
    share = np.where(where, parts, 0.0).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    mixed: Array = np.multiply(x, np.subtract(1, share)) + np.multiply(x[partner], share)
    return np.ascontiguousarray(mixed.astype(x.dtype))
