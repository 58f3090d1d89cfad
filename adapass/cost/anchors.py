"""Models that were measured whole, and what their pieces missed by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Anchor:
    """A model that was measured whole: by how much that differed from the sum of its pieces."""

    share_8bit: float
    weight_bytes: float
    factor: float


def factor_between(anchors: Sequence[Anchor], share_8bit: float, touched_bytes: float) -> float:
    """The correction between ``anchors``: by bytes of weights touched in a call, and by precision."""
    if not anchors:
        return 1.0
    shares = sorted({each.share_8bit for each in anchors})
    factors: list[float] = []
    for precision in shares:
        own = sorted((e for e in anchors if e.share_8bit == precision), key=lambda each: each.weight_bytes)
        sizes, values = [each.weight_bytes for each in own], [each.factor for each in own]
        factors.append(float(np.interp(touched_bytes, sizes, values)))
    return float(np.interp(share_8bit, shares, factors))
