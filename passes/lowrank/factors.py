"""The best thin factors of a weight for the inputs it really sees.

    minimise  sum over rows x of  | x W - x A B |^2      over A [K, r], B [r, N]

With the Gram matrix G = sum x^T x this is a truncated singular value decomposition of G^(1/2) W, and its
right singular vectors are those of W^T G W: the directions in which the *outputs* vary most. B are the
first r of them and A = W B^T; no root or inverse of G is needed, and G may be singular. Without inputs G is
the unit matrix. (Yuan et al. 2023, ASVD, arXiv:2312.05821; Wang et al. 2024, SVD-LLM, arXiv:2403.07378.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """Thin factors and what they keep."""

    left: Doubles
    """[K, r]"""
    right: Doubles
    """[r, N], orthonormal rows."""
    explained: float
    """Share of the squared size of the outputs that is kept, 0 to 1."""


def factorize(matrix: Doubles, gram: Doubles | None, rank: int) -> Factors:
    """The best factors of this rank; ``gram`` [K, K] of the inputs, about their mean or not."""
    energies, directions = output_directions(matrix, gram)
    kept = directions[:, :rank]
    total = float(energies.sum())
    explained = float(energies[:rank].sum()) / total if total > 0.0 else 1.0
    return Factors(matrix @ kept, np.ascontiguousarray(kept.T), explained)


def output_directions(matrix: Doubles, gram: Doubles | None) -> tuple[Doubles, Doubles]:
    """Energies [N], falling, and directions [N, N] as columns, the largest entry of each positive."""
    from scipy.linalg import eigh

    outputs = matrix.T @ matrix if gram is None else matrix.T @ gram @ matrix
    energies, directions = eigh((outputs + outputs.T) / 2)
    energies, directions = np.maximum(energies[::-1], 0.0), directions[:, ::-1]
    largest = np.argmax(np.abs(directions), axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return energies, directions * np.where(signs == 0.0, 1.0, signs)


def rank_explaining(energies: Doubles, share: float, multiple: int) -> int:
    """The least rank, in steps of ``multiple``, that keeps this share of the energy."""
    total = float(energies.sum())
    if total <= 0.0:
        return multiple
    needed = int(np.searchsorted(np.cumsum(energies) / total, share - 1e-12)) + 1
    return -(-needed // multiple) * multiple
