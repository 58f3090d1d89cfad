"""What the original says: by ONNX Runtime, or where products are mixed by its twin, in half the time.

Half precision moves what a teacher says by about a hundredth of what a student still has to learn; where it
moves it by more than ``CLOSE``, single precision is used. What judges a student is always exact.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.healing.objectives import relative_error
from adapass.healing.precision import can_mix
from adapass.twin.build import build_twin
from adapass.twin.dtypes import to_array, to_tensor
from adapass.twin.torch_import import torch
from adapass.twin.twin import Twin

logger = logging.getLogger(__name__)
CLOSE: Final = 0.02
"""Root mean square of the change over that of the value."""


class Teacher:
    """The original, asked for its outputs and the values at some points."""

    def __init__(
        self, original: ir.Model, outputs: Sequence[str], *, threads: int, like: Feeds | None = None
    ) -> None:
        """``like`` are inputs to try half precision on; without them it is not used."""
        self._session = Session(original, outputs=outputs, optimize=True, threads=threads)
        self._twin = None if like is None else self._close_twin(original, outputs, like)

    @property
    def is_mixed(self) -> bool:
        return self._twin is not None

    def run(self, feeds: Feeds) -> dict[str, Array]:
        return self._session.run(feeds) if self._twin is None else _mixed(self._twin, feeds)

    def _close_twin(self, original: ir.Model, outputs: Sequence[str], like: Feeds) -> Twin | None:
        if not can_mix(original, like, outputs):
            return None
        twin = build_twin(original, outputs=outputs)
        exact, found = self._session.run(like), _mixed(twin, like)
        moved = max(float(relative_error(to_tensor(found[n]), to_tensor(exact[n]))) ** 0.5 for n in outputs)
        logger.info("healing: half precision moves the original by %.2g", moved)
        return twin if moved <= CLOSE else None


def _mixed(twin: Twin, feeds: Feeds) -> dict[str, Array]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = twin.compute(feeds)
    return {name: to_array(x.float()) for name, x in found.items()}
