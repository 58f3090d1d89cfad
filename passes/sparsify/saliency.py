"""Which weights to zero, and what the others become.

    least squares     minimise |x W - x W'|^2 with W' zero outside the mask

``surgeon`` goes through the inputs in order: the mask of the next chunk is what optimal brain surgeon would
miss least, ``w_i^2 / [G^-1]_ii``; each weight that is zeroed moves the weights of all later inputs so that
they make up for it (Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774). ``by_norm`` only
weighs a weight with the size of its input (Sun et al. 2023, Wanda, arXiv:2306.11695), and changes no other
weight. ``refitted`` is the exact least-squares fit for a given mask, output by output.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from adapass.passes.sparsify.patterns import Mask, Pattern

Doubles = npt.NDArray[np.float64]


def by_norm(matrix: Doubles, norms: Doubles | None, pattern: Pattern) -> Mask:
    """The mask by size of weight times size of input; ``norms`` [inputs], ``None``: by size of weight."""
    sizes = matrix**2 if norms is None else (matrix * norms[:, None]) ** 2
    return pattern.choose(sizes)


def surgeon(matrix: Doubles, gram: Doubles, pattern: Pattern, *, damping: float) -> tuple[Doubles, Mask]:
    """The weight with zeros by ``pattern``, the others moved to make up for them, and its mask.

    ``matrix`` [inputs, outputs], ``gram`` [inputs, inputs].
    """
    upper = _inverse_factor(gram, damping)
    weight = matrix.copy()
    mask = np.ones(matrix.shape, np.bool_)
    diagonal = np.diag(upper)
    inputs = len(matrix)
    chunk = pattern.chunk(inputs)
    for start in range(0, inputs, chunk):
        end = min(start + chunk, inputs)
        if pattern.kept is None:
            gone = pattern.gone(end, matrix.shape[1]) - pattern.gone(start, matrix.shape[1])
            mask[start:end] = pattern.choose((weight[start:end] / diagonal[start:end, None]) ** 2, gone)
        for i in range(start, end):
            if pattern.kept is not None and (i - start) % pattern.wide == 0:
                group = slice(i, i + pattern.wide)
                mask[group] = pattern.choose((weight[group] / diagonal[group, None]) ** 2)
            error = np.where(mask[i], 0.0, weight[i]) / diagonal[i]
            weight[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    return np.where(mask, weight, 0.0), mask


def refitted(matrix: Doubles, gram: Doubles, mask: Mask, *, damping: float) -> Doubles:
    """The least-squares weight with this mask, nearest ``matrix`` where the inputs do not decide."""
    damped = gram + _ridge(gram, damping) * np.eye(len(gram))
    wanted = damped @ matrix
    weight = np.zeros_like(matrix)
    for output in range(matrix.shape[1]):
        kept = np.flatnonzero(mask[:, output])
        if len(kept):
            weight[kept, output] = np.linalg.solve(damped[np.ix_(kept, kept)], wanted[kept, output])
    return weight


def refit_operations(mask: Mask) -> float:
    """Multiplications that ``refitted`` takes."""
    return float((mask.sum(axis=0).astype(np.float64) ** 3 / 3).sum())


def squared_error(before: Doubles, after: Doubles, gram: Doubles) -> float:
    """|x W - x W'|^2 summed over the rows behind ``gram``."""
    moved = before - after
    return float(np.einsum("io,ij,jo->", moved, gram, moved, optimize=True))


def _inverse_factor(gram: Doubles, damping: float) -> Doubles:
    """Upper triangular U with U^T U the inverse of the damped Gram matrix."""
    from scipy.linalg import cho_factor, cho_solve, cholesky

    damped = gram + _ridge(gram, damping) * np.eye(len(gram))
    inverse = cho_solve(cho_factor(damped, lower=True), np.eye(len(gram)))
    return np.asarray(cholesky((inverse + inverse.T) / 2, lower=False), np.float64)


def _ridge(gram: Doubles, damping: float) -> float:
    mean = float(np.trace(gram)) / len(gram)
    return damping * mean if mean > 0.0 else 1.0
