"""Which weights to zero, and what the others become.

    least squares     minimise |x W - x W'|^2 with W' zero outside the mask

``surgeon`` goes through the inputs in order: the mask of the next chunk is what optimal brain surgeon would
miss least, ``w_i^2 / [G^-1]_ii``; each weight that is zeroed moves the weights of all later inputs so that
they make up for it (Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774). ``by_norm`` only
weighs a weight with the size of its input (Sun et al. 2023, Wanda, arXiv:2306.11695), and changes no other
weight. ``refitted`` is the exact least-squares fit for a given mask, output by output; ``descended`` comes as
close as asked to it by conjugate gradients on all outputs at once, which is what large weights can afford.
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
        errors = np.zeros((end - start, matrix.shape[1]))
        if pattern.kept is None:
            gone = pattern.gone(end, matrix.shape[1]) - pattern.gone(start, matrix.shape[1])
            mask[start:end] = pattern.choose((weight[start:end] / diagonal[start:end, None]) ** 2, gone)
        for i in range(start, end):
            if pattern.kept is not None and (i - start) % pattern.wide == 0:
                group = slice(i, i + pattern.wide)
                mask[group] = pattern.choose((weight[group] / diagonal[group, None]) ** 2)
            errors[i - start] = np.where(mask[i], 0.0, weight[i]) / diagonal[i]
            weight[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - start])
        weight[end:] -= upper[start:end, end:].T @ errors  # later inputs hear of a whole chunk at once
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


def descended(
    matrix: Doubles,
    gram: Doubles,
    mask: Mask,
    *,
    damping: float,
    start: Doubles | None = None,
    steps: int = 24,
) -> Doubles:
    """Near the least-squares weight with this mask, after ``steps`` of preconditioned conjugate gradients.

    Never further from the output than ``start`` (default: the masked ``matrix``). Each output descends for
    itself; one that has arrived stays.
    """
    damped = (gram + _ridge(gram, damping) * np.eye(len(gram))).astype(np.float32)
    scale = np.where(mask, 1.0 / np.maximum(np.diag(damped)[:, None], np.finfo(np.float32).tiny), 0.0)
    weight = np.where(mask, matrix if start is None else start, 0.0)
    left = np.where(mask, damped @ (matrix - weight).astype(np.float32), 0.0).astype(np.float64)
    scaled = scale * left
    direction, size = scaled, (left * scaled).sum(axis=0)
    arrived = 1e-12 * size
    for _ in range(steps):
        moving = size > arrived
        if not moving.any():
            break
        pushed = np.where(mask, damped @ direction.astype(np.float32), 0.0).astype(np.float64)
        curvature = (direction * pushed).sum(axis=0)
        moving &= curvature > 0.0
        step = np.divide(size, curvature, out=np.zeros_like(size), where=moving)
        weight += step * direction
        left -= step * pushed
        scaled = scale * left
        before, size = size, (left * scaled).sum(axis=0)
        direction = scaled + np.divide(size, before, out=np.zeros_like(size), where=moving) * direction
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
