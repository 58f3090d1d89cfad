"""Least squares on moments: the matrix and bias that bring ``x @ matrix + bias`` closest to y.

    minimise  sum |x @ V + b - y|^2  +  ridge * |V - V0|^2

with the ridge relative to the mean size of a column of x: directions that x hardly takes keep the weights
they had (V0), instead of fitting noise. How strong it should be depends on how many rows there are for how
many columns, and on how much of y cannot be said at all; so it is tried on rows that were not fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from adapass.errors import DataError
from adapass.moments import CrossMoments
from adapass.moments.batches import spread

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
TRIED_OUTPUTS = 128
MORE_DAMPING = 10.0


def fitted(moments: CrossMoments, before: Doubles, *, ridge: float, bias: bool) -> tuple[Doubles, Doubles]:
    """(matrix [C, D], bias [D]); the bias is zero where it may not be fitted."""
    from scipy.linalg import cho_solve

    x = moments.x
    gram, cross = x.gram / x.rows, moments.cross / x.rows
    mean_x, mean_y = x.total / x.rows, moments.total / x.rows
    if bias:
        gram = gram - np.outer(mean_x, mean_x)
        cross = cross - np.outer(mean_x, mean_y)
    size = float(np.trace(gram)) / len(gram)
    if size <= 0.0:
        return before.copy(), mean_y - mean_x @ before if bias else np.zeros_like(mean_y)
    factor, pull = factored(gram, ridge * size)
    matrix = cho_solve((factor, True), cross + pull * before)
    return matrix, mean_y - mean_x @ matrix if bias else np.zeros_like(mean_y)


def factored(gram: Doubles, damping: float) -> tuple[Doubles, float]:
    """Lower Cholesky factor of ``gram`` plus ``damping`` on its diagonal, and the damping that it took.

    Where the mean of rows is far larger than what they vary by, centring leaves rounding errors larger than
    the damping asked for, and the matrix is not positive definite; more is taken then.

    Raises:
        DataError: numbers are not finite.

    """
    from scipy.linalg.lapack import dpotrf

    if not np.isfinite(gram).all():
        raise DataError(
            "a layer computes numbers that are not finite on the calibration samples; "
            "check the samples, or leave out those that overflow"
        )
    least = max(
        float(np.finfo(np.float64).eps * np.trace(gram)) / len(gram), float(np.finfo(np.float64).tiny)
    )
    while True:
        factor, failed = dpotrf(gram + damping * np.eye(len(gram)), lower=1)
        if not failed:
            return factor, damping
        damping = max(MORE_DAMPING * damping, least)


def joined(parts: Sequence[CrossMoments]) -> CrossMoments:
    """The moments of all rows together, in the memory of the first of ``parts``."""
    first = parts[0]
    for part in parts[1:]:
        for sum_, more in (
            (first.x.total, part.x.total),
            (first.x.gram, part.x.gram),
            (first.total, part.total),
            (first.cross, part.cross),
            (first.squares, part.squares),
        ):
            np.add(sum_, more, out=sum_)
    return replace(first, x=replace(first.x, rows=sum(part.x.rows for part in parts)))


def tried_ridge(
    shown: CrossMoments, held: CrossMoments, before: Doubles, ridges: Sequence[float], *, bias: bool
) -> float:
    """The ridge of those rising ``ridges`` whose fit on ``shown`` does best on ``held``.

    Of many outputs some are looked at, evenly spaced.
    """
    some = np.array(spread(before.shape[1], TRIED_OUTPUTS), np.int64)
    shown, held, before = _of_outputs(shown, some), _of_outputs(held, some), before[:, some]
    errors: list[float] = []
    for ridge in ridges:
        errors.append(squared_error(held, *fitted(shown, before, ridge=ridge, bias=bias)))
        if errors[-1] > min(errors):
            break  # it is one valley
    return ridges[int(np.argmin(errors))]


def _of_outputs(moments: CrossMoments, some: Integers) -> CrossMoments:
    return CrossMoments(moments.x, moments.total[some], moments.cross[:, some], moments.squares[some])


def squared_error(moments: CrossMoments, matrix: Doubles, bias: Doubles) -> float:
    """Sum of |x @ matrix + bias - y|^2 over all rows seen."""
    x = moments.x
    quadratic = np.einsum("io,ij,jo->o", matrix, x.gram, matrix, optimize=True)
    linear = np.einsum("io,io->o", matrix, moments.cross)
    shift = bias * (x.rows * bias + 2.0 * (x.total @ matrix) - 2.0 * moments.total)
    return float(np.maximum(quadratic - 2.0 * linear + moments.squares + shift, 0.0).sum())
