"""Least squares on moments: the matrix and bias that bring ``x @ matrix + bias`` closest to y.

    minimise  sum |x @ V + b - y|^2  +  ridge * |V - V0|^2

with the ridge relative to the mean size of a column of x: directions that x hardly takes keep the weights
they had (V0), instead of fitting noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from adapass.moments import CrossMoments

Doubles = npt.NDArray[np.float64]


def fitted(moments: CrossMoments, before: Doubles, *, ridge: float, bias: bool) -> tuple[Doubles, Doubles]:
    """(matrix [C, D], bias [D]); the bias is zero where it may not be fitted."""
    from scipy.linalg import cho_factor, cho_solve

    x = moments.x
    gram, cross = x.gram / x.rows, moments.cross / x.rows
    mean_x, mean_y = x.total / x.rows, moments.total / x.rows
    if bias:
        gram = gram - np.outer(mean_x, mean_x)
        cross = cross - np.outer(mean_x, mean_y)
    size = float(np.trace(gram)) / len(gram)
    if size <= 0.0:
        return before.copy(), mean_y - mean_x @ before if bias else np.zeros_like(mean_y)
    damped = gram + ridge * size * np.eye(len(gram))
    matrix = cho_solve(cho_factor(damped, lower=True), cross + ridge * size * before)
    return matrix, mean_y - mean_x @ matrix if bias else np.zeros_like(mean_y)


def squared_error(moments: CrossMoments, matrix: Doubles, bias: Doubles) -> float:
    """Sum of |x @ matrix + bias - y|^2 over all rows seen."""
    x = moments.x
    quadratic = np.einsum("io,ij,jo->o", matrix, x.gram, matrix, optimize=True)
    linear = np.einsum("io,io->o", matrix, moments.cross)
    shift = bias * (x.rows * bias + 2.0 * (x.total @ matrix) - 2.0 * moments.total)
    return float(np.maximum(quadratic - 2.0 * linear + moments.squares + shift, 0.0).sum())
