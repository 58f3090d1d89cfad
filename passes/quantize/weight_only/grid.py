"""Uniform grids: integers with one scale (and zero point) for each block of inputs of an output.

    weight[k, n]  is about  (values[k, n] - zero[b, n]) * scale[b, n]        b = k // block

Matrices are [inputs K, outputs N]. Scales are found in one of three ways:

    min-max      the range of the block is the range of the grid
    mse          the range is shrunk as far as makes the squared error smallest, inputs weighed by their size
    statistics   the range is twice the mean magnitude to either side, whatever lies outside (Liu et al. 2023,
                 OFQ, arXiv:2302.02210); made for 2 bits: with more it cuts off too much
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Int16s = npt.NDArray[np.int16]
TINY = float(np.finfo(np.float32).tiny)
SHRINKS = tuple(1.0 - 0.025 * step for step in range(25))
"""What the search for the least squared error multiplies the range with."""


class Scales(StrEnum):
    """How the scale of a block is found."""

    MIN_MAX = "min-max"
    MSE = "mse"
    STATISTICS = "statistics"


@dataclass(frozen=True, slots=True)
class Grid:
    """What the weights of each block may become. ``scale`` and ``zero`` are [blocks, N]."""

    bits: int
    block: int
    symmetric: bool
    scale: Doubles
    """As stored, in single precision."""
    zero: Doubles
    """Whole numbers; 0 where symmetric."""

    @property
    def low(self) -> int:
        """The least integer. A symmetric grid of 8 bits leaves -128 out, as integer kernels want it."""
        if not self.symmetric:
            return 0
        return -127 if self.bits == 8 else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def rows(self, inputs: int) -> tuple[Doubles, Doubles]:
        """Scale and zero point of every weight, [inputs, N] each."""
        return spread(self.scale, self.block, inputs), spread(self.zero, self.block, inputs)

    def nearest(self, matrix: Doubles) -> Doubles:
        """The integers whose weights lie nearest."""
        scale, zero = self.rows(len(matrix))
        return np.clip(np.rint(matrix / scale) + zero, self.low, self.high)

    def weights(self, values: Doubles | Int16s) -> Doubles:
        """The numbers that integers stand for, computed as the runtime does: in single precision."""
        scale, zero = self.rows(len(values))
        return ((values - zero).astype(np.float32) * scale.astype(np.float32)).astype(np.float64)


def spread(per_block: Doubles, block: int, inputs: int) -> Doubles:
    """One row for each input of [blocks, N]."""
    return np.repeat(per_block, block, axis=0)[:inputs]


def grid_of(
    matrix: Doubles,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    scales: Scales,
    importance: Doubles | None = None,
) -> Grid:
    """The grid of a finite matrix; ``importance`` [K] weighs squared errors in the search of ``mse``.

    A block of zeros (or of subnormal numbers, whose scale would underflow) gets scale 1.
    """
    found = _ranged(matrix, bits, block, symmetric, np.ones((_blocks(matrix, block), matrix.shape[1])))
    if scales == Scales.STATISTICS:
        return _statistical(matrix, found)
    if scales == Scales.MIN_MAX:
        return found
    weigh = np.ones(len(matrix)) if importance is None else importance
    best = np.full(found.scale.shape, np.inf)
    shrink = np.ones(found.scale.shape)
    for factor in SHRINKS:
        tried = _ranged(matrix, bits, block, symmetric, np.full(found.scale.shape, factor))
        error = _per_block((tried.weights(tried.nearest(matrix)) - matrix) ** 2 * weigh[:, None], block)
        better = error < best
        best = np.where(better, error, best)
        shrink = np.where(better, factor, shrink)
    return _ranged(matrix, bits, block, symmetric, shrink)


def _blocks(matrix: Doubles, block: int) -> int:
    return -(-len(matrix) // block)


def _padded(matrix: Doubles, block: int) -> Doubles:
    """[blocks, block, N], zeros behind the last input."""
    blocks = _blocks(matrix, block)
    filled = np.zeros((blocks * block, matrix.shape[1]))
    filled[: len(matrix)] = matrix
    return filled.reshape(blocks, block, matrix.shape[1])


def _per_block(errors: Doubles, block: int) -> Doubles:
    return np.asarray(_padded(errors, block).sum(axis=1))


def _ranged(matrix: Doubles, bits: int, block: int, symmetric: bool, shrink: Doubles) -> Grid:
    """The grid over the range of each block (0 is always in it) times ``shrink``."""
    cells = _padded(matrix, block)
    low: Doubles = np.minimum(cells.min(axis=1), 0.0) * shrink
    high: Doubles = np.maximum(cells.max(axis=1), 0.0) * shrink
    levels = (1 << bits) - 1
    if symmetric:
        # a half step more on the side that has one integer more
        reach = 127.0 if bits == 8 else (1 << (bits - 1)) - 0.5
        return Grid(bits, block, True, _stored(np.maximum(-low, high) / reach), np.zeros(low.shape))
    scale = _stored((high - low) / levels)
    return Grid(bits, block, False, scale, np.clip(np.rint(-low / scale), 0.0, float(levels)))


def _statistical(matrix: Doubles, ranged: Grid) -> Grid:
    """About 0: the statistic knows of no offset."""
    counts = _per_block(np.ones(matrix.shape), ranged.block)
    mean = _per_block(np.abs(matrix), ranged.block) / counts
    scale = _stored(2.0 * mean / (1 << (ranged.bits - 1)))
    middle = 0.0 if ranged.symmetric else float(1 << (ranged.bits - 1))
    return Grid(ranged.bits, ranged.block, ranged.symmetric, scale, np.full(scale.shape, middle))


def _stored(scale: Doubles) -> Doubles:
    """As single precision holds it; 1 where it would vanish."""
    return np.where(scale < TINY, 1.0, scale).astype(np.float32).astype(np.float64)
