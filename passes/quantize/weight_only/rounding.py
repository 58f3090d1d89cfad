"""From a weight to what is stored in its place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import ml_dtypes
import numpy as np

from adapass.passes.quantize.weight_only.binary import Codes, binary_codes
from adapass.passes.quantize.weight_only.correction import Branch, with_branch
from adapass.passes.quantize.weight_only.formats import Format, Kind
from adapass.passes.quantize.weight_only.grid import Doubles, Grid, Scales, grid_of
from adapass.passes.quantize.weight_only.learned import learned
from adapass.passes.quantize.weight_only.second_order import second_order

HALVES = {Kind.HALF: np.float16, Kind.BRAIN: ml_dtypes.bfloat16}
LARGEST = {Kind.HALF: 65504.0, Kind.BRAIN: 2.0**127 * (2.0 - 2.0**-7)}


class Rounding(StrEnum):
    """How integers are chosen."""

    NEAREST = "nearest"
    SECOND_ORDER = "second-order"
    LEARNED = "learned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a weight is brought into a format."""

    rounding: Rounding
    scales: Scales
    symmetric: bool
    damping: float
    ordered: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands for a matrix [K, N]: exactly one of the first three, and a branch with a rank."""

    shape: tuple[int, int]
    integers: tuple[Grid, Doubles] | None = None
    half: Doubles | None = None
    codes: Codes | None = None
    branch: Branch | None = None

    def weights(self) -> Doubles:
        """The numbers it stands for, the branch included."""
        if self.integers is not None:
            plain = self.integers[0].weights(self.integers[1])
            return plain if self.branch is None else plain + self.branch.product()
        if self.codes is not None:
            return self.codes.weights()
        assert self.half is not None  # one of the three is there
        return self.half


def stored_form(matrix: Doubles, gram: Doubles | None, format_: Format, method: Method) -> Stored:
    """Bring a finite matrix [K, N] into a format; ``gram`` [K, K] of its inputs. Without (``None``): nearest.

    Raises:
        UsageError: rounding is to be learned and torch is not installed.

    """
    if format_.kind in HALVES:
        limit = LARGEST[format_.kind]
        half = np.clip(matrix, -limit, limit).astype(HALVES[format_.kind]).astype(np.float64)
        return Stored(matrix.shape, half=half)
    if format_.kind is Kind.BINARY:
        importance = None if gram is None else np.diag(gram)
        group = format_.block(len(matrix))
        return Stored(
            matrix.shape,
            codes=binary_codes(matrix, codes=format_.bits, group=group, importance=importance),
        )
    if format_.rank:
        form, branch = with_branch(
            matrix, gram, format_.rank, lambda each: _with_numbers(each, gram, format_, method)
        )
        return Stored(matrix.shape, integers=form, branch=branch)
    return Stored(matrix.shape, integers=_integers(matrix, gram, format_, method))


def _with_numbers(
    matrix: Doubles, gram: Doubles | None, format_: Format, method: Method
) -> tuple[tuple[Grid, Doubles], Doubles]:
    grid, values = _integers(matrix, gram, format_, method)
    return (grid, values), grid.weights(values)


def _integers(matrix: Doubles, gram: Doubles | None, format_: Format, method: Method) -> tuple[Grid, Doubles]:
    grid = grid_of(
        matrix,
        bits=format_.bits,
        block=format_.block(len(matrix)),
        symmetric=method.symmetric,
        scales=method.scales,
        importance=None if gram is None else np.diag(gram),
    )
    if gram is None or method.rounding == Rounding.NEAREST:
        return grid, grid.nearest(matrix)
    if method.rounding == Rounding.SECOND_ORDER:
        return grid, second_order(matrix, gram, grid, damping=method.damping, ordered=method.ordered)
    return grid, learned(matrix, gram, grid, damping=method.damping, start=grid.nearest(matrix))
