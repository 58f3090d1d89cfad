"""Whether the original still says of a varied sample what it says of the sample, or of one of two mixed."""

from __future__ import annotations

import numpy as np

from adapass.budgeted import Array


def recognised(varied: Array, first: Array, second: Array) -> float:
    """Share of rows whose class is that of either row it was made of; without classes 1 - relative error.

    Outputs ``[N, ...]`` of equal numbers of rows; further axes may differ in length and are then cut.
    """
    shortest = tuple(min(sizes) for sizes in zip(varied.shape, first.shape, second.shape, strict=True))
    cut = tuple(slice(0, size) for size in shortest)
    found, one, other = (x[cut].astype(np.float64) for x in (varied, first, second))
    if found.ndim == 2 and found.shape[1] > 1:
        said = found.argmax(1)
        return float(((said == one.argmax(1)) | (said == other.argmax(1))).mean())
    flat = [x.reshape(len(x), -1) for x in (found, one, other)]
    error = np.minimum(((flat[0] - flat[1]) ** 2).sum(1), ((flat[0] - flat[2]) ** 2).sum(1))
    size = max(float((flat[1] ** 2).sum()), 1e-30)
    return 1.0 - float(error.sum()) / size
