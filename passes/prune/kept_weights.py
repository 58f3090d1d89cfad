"""What a family may have done to stored weights: those it did not fit stay as they are, fitted ones alike.

A loose bound on the outputs hides a wrong sign deep inside; this does not.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import VerificationError
from adapass.graph.edit import constant_array


def check_weights(family: str, before: ir.Model, after: ir.Model, fitted: Collection[str]) -> None:
    """Compare all initializers that both models have at the same size.

    Of those in ``fitted``, matrices must still point into the direction they did; vectors (biases) may be
    anything. What a graph does not read any more is not there to compare.

    Raises:
        VerificationError: naming the weight.

    """
    for name, value in before.graph.initializers.items():
        there = after.graph.initializers.get(name)
        old, new = constant_array(value), constant_array(there)
        if old is None or new is None or old.shape != new.shape:
            continue
        if name in fitted:
            _check_alike(family, name, old, new)
        elif old.dtype != new.dtype or not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            raise VerificationError(f"{family}: '{name}' changed, although nothing was to be fitted there")


def _check_alike(family: str, name: str, old: Array, new: Array) -> None:
    if old.ndim < 2 or not old.any() or not new.any():
        return
    if alignment(old, new) <= 0.0:
        raise VerificationError(
            f"{family}: the fitted weight '{name}' points away from what it was; a sign or an axis is wrong"
        )


def alignment(old: Array, new: Array) -> float:
    """Cosine between two arrays of one size."""
    a, b = old.astype(np.float64).ravel(), new.astype(np.float64).ravel()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0.0 else 1.0
