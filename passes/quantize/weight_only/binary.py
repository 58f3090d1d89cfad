"""Binary codes: a weight as a sum of signs times scales.

    w[k, n]  is about  sum over codes c of  scale[c, b, n] * sign[c, k, n]        b = k // group

Each code is first the sign of what the ones before it left over; then scales (least squares for given signs)
and signs (the nearest of the 2^c sums for given scales) are settled in turns. A code costs one bit a weight.
(Xu et al. 2018, alternating multi-bit quantization, arXiv:1802.00150; Kwon et al. 2022, AlphaTuning,
arXiv:2210.03858.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from adapass.passes.quantize.weight_only.grid import Doubles

ROUNDS = 12
RIDGE = 1e-9
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Codes:
    """Signs (-1 or 1), [codes, K, N], and scales, [codes, blocks, N], as single precision holds them."""

    signs: Doubles
    scale: Doubles
    group: int

    def weights(self) -> Doubles:
        rows = np.repeat(self.scale, self.group, axis=1)[:, : self.signs.shape[1]]
        return np.asarray((rows * self.signs).sum(axis=0))

    def packed(self) -> Bytes:
        """[codes, N, K / 8 rounded up]: a bit is set where the sign is +, the first input highest."""
        return np.packbits(self.signs.transpose(0, 2, 1) > 0.0, axis=2)


def binary_codes(matrix: Doubles, *, codes: int, group: int, importance: Doubles | None = None) -> Codes:
    """Fit codes to a finite matrix [K, N]; ``importance`` [K] weighs the squared errors."""
    inputs, outputs = matrix.shape
    blocks = -(-inputs // group)
    cells = np.zeros((blocks * group, outputs))
    cells[:inputs] = matrix
    weigh = np.zeros(blocks * group)
    weigh[:inputs] = 1.0 if importance is None else importance / max(float(importance.mean()), RIDGE)
    flat = cells.reshape(blocks, group, outputs).transpose(0, 2, 1)  # [blocks, N, group]
    weights = np.maximum(weigh.reshape(blocks, 1, group), RIDGE)
    signs = _greedy(flat, weights, codes)
    scale = _scales(flat, weights, signs)
    for _ in range(ROUNDS):
        signs = _signs(flat, scale)
        fresh = _scales(flat, weights, signs)
        if np.array_equal(fresh, scale):
            break
        scale = fresh
    spread = signs.transpose(0, 1, 3, 2).reshape(codes, blocks * group, outputs)[:, :inputs]
    stored = scale.transpose(2, 0, 1).astype(np.float32).astype(np.float64)
    return Codes(np.ascontiguousarray(spread), stored, group)


def _greedy(flat: Doubles, weights: Doubles, codes: int) -> Doubles:
    left = flat.copy()
    signs: list[Doubles] = []
    for _ in range(codes):
        sign = np.where(left >= 0.0, 1.0, -1.0)
        size = (weights * np.abs(left)).sum(axis=2) / weights.sum(axis=2)
        left -= sign * size[:, :, None]
        signs.append(sign)
    return np.stack(signs)


def _scales(flat: Doubles, weights: Doubles, signs: Doubles) -> Doubles:
    """Least squares, [blocks, N, codes]; two equal codes share what one would have."""
    weigh = np.broadcast_to(weights, flat.shape)
    gram: Doubles = np.einsum("cbnk,dbnk,bnk->bncd", signs, signs, weigh, optimize=True)
    wanted: Doubles = np.einsum("cbnk,bnk,bnk->bnc", signs, flat, weigh, optimize=True)
    size = weights.sum(axis=2)[:, :, None, None]
    gram = gram + RIDGE * size * np.eye(len(signs))
    return np.linalg.solve(gram, wanted[..., None])[..., 0].astype(np.float64)


def _signs(flat: Doubles, scale: Doubles) -> Doubles:
    """The nearest of all sums, weight by weight."""
    choices = np.array(list(product((-1.0, 1.0), repeat=scale.shape[2])))  # [2^codes, codes]
    best = np.full(flat.shape, np.inf)
    picked = np.zeros(flat.shape, np.int64)
    for place, choice in enumerate(choices):
        error = np.abs(flat - (scale @ choice)[:, :, None])
        nearer = error < best
        best = np.where(nearer, error, best)
        picked = np.where(nearer, place, picked)
    return np.ascontiguousarray(np.moveaxis(choices[picked], -1, 0))
