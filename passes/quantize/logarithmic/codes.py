"""Scale and base of a logarithmic quantizer, and of a uniform one, searched for one tensor.

    log        x  ~  scale * base ^ -code        code 0 ... 2^bits - 2, and one code for 0
    uniform    x  ~  scale * code                code 0 ... 2^bits - 1

Both are for numbers from 0 upwards. Wu et al. 2024 (AdaLog, arXiv:2407.12951) search the base because 2 fits
hardly any tensor: large bases are coarse where numbers are large, small ones reach not far enough down.
Candidates are judged by what they do to the product that reads the tensor, on rows seen in calibration. The
error of the tensor itself would mislead: many small numbers that all become 0 are a small error each, and
a large one together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array
from adapass.passes.quantize.fitting import spread

Doubles = npt.NDArray[np.float64]
STEPS_AN_OCTAVE = 37
"""Bases are powers of 2 with exponents in such steps; Wu et al. give tables without logarithms for them."""
COARSE = tuple(range(4, 112, 6))
FINE = tuple(range(-5, 6))
QUARTERS = (0.0, 0.25, 0.5, 0.75)
"""Scales to try, in steps of the base below the largest number: then they repeat, one code on."""
SHRINKS = tuple(float(s) for s in np.linspace(1.0, 0.2, 33))
TINY = 1e-37


@dataclass(slots=True)
class Reads:
    """Rows of a tensor, and what each is multiplied by: ``left @ right``, [..., R, K] by [..., K, N]."""

    rows_each: int
    """Rows kept of every array."""
    pairs: list[tuple[Doubles, Doubles]] = field(default_factory=list[tuple[Doubles, Doubles]])
    largest: float = 0.0

    def add(self, left: Array, right: Array) -> None:
        """Keep some rows of numbers from 0 upwards."""
        numbers = left.astype(np.float64)
        self.largest = max(self.largest, float(numbers.max(initial=0.0)))
        count = numbers.shape[-2]
        kept = spread(count, self.rows_each)
        self.pairs.append((numbers[..., kept, :], right.astype(np.float64)))

    def error(self, rounded: Callable[[Doubles], Doubles]) -> float:
        """Squared error of the products."""
        return sum(float(np.square((rounded(left) - left) @ right).sum()) for left, right in self.pairs)


@dataclass(frozen=True, slots=True)
class LogCodes:
    """``scale * base ^ -code`` for codes up to ``last``, and 0."""

    scale: float
    base: float
    last: int

    def rounded(self, numbers: Doubles) -> Doubles:
        """As ``adapass.LogRound`` does it, in double precision."""
        depth = np.rint(-np.log(np.maximum(numbers / self.scale, TINY)) / np.log(self.base))
        restored = self.scale * self.base ** -np.clip(depth, 0, self.last)
        return np.where(depth > self.last, 0.0, restored)


@dataclass(frozen=True, slots=True)
class UniformCodes:
    """``scale * code`` for codes up to ``last``."""

    scale: float
    last: int

    def rounded(self, numbers: Doubles) -> Doubles:
        return np.clip(np.rint(numbers / self.scale), 0, self.last) * self.scale


def search_log(seen: Reads, bits: int, base: float | None = None) -> LogCodes:
    """Scale and base with the least error; with ``base`` given, the scale alone."""
    last = 2**bits - 2
    if seen.largest <= 0.0:
        return LogCodes(1.0, base or 2.0, last)
    if base is not None:
        return _best(seen, [base], last)
    rough = _best(seen, (2.0 ** (q / STEPS_AN_OCTAVE) for q in COARSE), last)
    middle = round(STEPS_AN_OCTAVE * np.log2(rough.base))
    return _best(seen, (2.0 ** (max(middle + q, 1) / STEPS_AN_OCTAVE) for q in FINE), last)


def _best(seen: Reads, bases: Iterable[float], last: int) -> LogCodes:
    tried = [LogCodes(seen.largest * base**-step, base, last) for base in bases for step in QUARTERS]
    return min(tried, key=lambda codes: seen.error(codes.rounded))


def search_uniform(seen: Reads, bits: int) -> UniformCodes:
    """The scale with the least error."""
    last = 2**bits - 1
    if seen.largest <= 0.0:
        return UniformCodes(1.0, last)
    tried = [UniformCodes(seen.largest * shrink / last, last) for shrink in SHRINKS]
    return min(tried, key=lambda codes: seen.error(codes.rounded))
