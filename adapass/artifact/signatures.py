"""Remember which feeds were checked, by names, types and shapes: a check costs as much as a small model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from adapass.budgeted import Array

MOST = 1024
"""Signatures kept; then all are forgotten. Lengths of text rarely come in so many combinations."""
_Signature: TypeAlias = tuple[tuple[str, np.dtype[np.generic], tuple[int, ...]], ...]


class Signatures:
    """Signatures of feeds that passed a check which looks at nothing else."""

    def __init__(self) -> None:
        self._known: set[_Signature] = set()

    def has(self, feeds: Mapping[str, Array]) -> bool:
        """Whether feeds like these passed before. Never of anything but arrays."""
        return (found := _signature(feeds)) is not None and found in self._known

    def add(self, feeds: Mapping[str, Array]) -> None:
        if (found := _signature(feeds)) is None:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known.add(found)


def _signature(feeds: Mapping[str, object]) -> _Signature | None:
    found = tuple([(name, a.dtype, a.shape) for name, a in feeds.items() if type(a) is np.ndarray])
    return found if len(found) == len(feeds) else None
