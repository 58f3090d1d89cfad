"""Round one input after the other, and let the inputs that are left make up for each error.

    minimise  | x W - x Q |^2 = sum over outputs  (w - q)^T G (w - q)        G = sum x x^T, Q on a grid

With U upper triangular and U^T U the inverse of the damped G, rounding input i costs e = (w_i - q_i) / U_ii,
and the best move of all later inputs j is w_j - U_ij e. Inputs with the largest second moment go first, while
there is most left to make up for them; scales belong to blocks of the original order and are fixed before.
(Frantar et al. 2023, GPTQ, arXiv:2210.17323.)
"""

from __future__ import annotations

import numpy as np

from adapass.passes.quantize.weight_only.grid import Doubles, Grid

CHUNK = 128
"""Inputs that hear of an error at once; the ones behind hear of a whole chunk in one product."""


def second_order(matrix: Doubles, gram: Doubles, grid: Grid, *, damping: float, ordered: bool) -> Doubles:
    """Integers [K, N] on ``grid``. ``gram`` [K, K]; ``damping`` is a share of the mean of its diagonal."""
    inputs = len(matrix)
    order = np.argsort(-np.diag(gram), kind="stable") if ordered else np.arange(inputs)
    upper = inverse_factor(gram[np.ix_(order, order)], damping)
    scale, zero = (rows[order] for rows in grid.rows(inputs))
    weight = matrix[order]
    values = np.zeros_like(weight)
    for start in range(0, inputs, CHUNK):
        end = min(start + CHUNK, inputs)
        errors = np.zeros((end - start, matrix.shape[1]))
        for i in range(start, end):
            values[i] = np.clip(np.rint(weight[i] / scale[i]) + zero[i], grid.low, grid.high)
            errors[i - start] = (weight[i] - (values[i] - zero[i]) * scale[i]) / upper[i, i]
            weight[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - start])
        weight[end:] -= upper[start:end, end:].T @ errors
    found = np.empty_like(values)
    found[order] = values
    return found


def inverse_factor(gram: Doubles, damping: float) -> Doubles:
    """Upper triangular U with U^T U the inverse of the damped Gram matrix."""
    from scipy.linalg import cho_factor, cho_solve, cholesky

    damped = damp(gram, damping)
    inverse = cho_solve(cho_factor(damped, lower=True), np.eye(len(gram)))
    return np.asarray(cholesky((inverse + inverse.T) / 2, lower=False), np.float64)


def damp(gram: Doubles, damping: float) -> Doubles:
    """Add to the diagonal a share of its mean, so that the matrix has an inverse."""
    mean = float(np.trace(gram)) / len(gram)
    return gram + (damping * mean if mean > 0.0 else 1.0) * np.eye(len(gram))


def squared_error(moved: Doubles, gram: Doubles) -> float:
    """Squared change of the outputs, summed over the rows behind ``gram``, when a weight moves by this."""
    return float(np.einsum("io,io->", moved, gram @ moved))
