"""Samples in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array, Feeds


@dataclass(frozen=True)
class Rows:
    """Inputs by name, [N, ...] each."""

    arrays: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {name: array[list(indices)] for name, array in self.arrays.items()}


def weight(seed: int, *shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def literal(array: npt.NDArray[np.floating]) -> str:
    return "{" + ", ".join(repr(float(x)) for x in array.ravel()) + "}"
