"""What a model remembers of its training data: mean and variance in front of every batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.constants import constant_array

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of one value of the main graph, whose channels are on its second axis."""

    value: str
    mean: Floats
    deviation: Floats
    """With the epsilon of the normalisation, so never 0."""


def remembered(model: ir.Model) -> tuple[Remembered, ...]:
    """In execution order. Empty for models without batch normalisation, or where exporting folded it."""
    found: dict[str, Remembered] = {}
    for node in model.graph:
        entry = _of(node) if node.op_type == "BatchNormalization" and node.domain == "" else None
        if entry is not None:
            found.setdefault(entry.value, entry)
    return tuple(found.values())


def _of(node: ir.Node) -> Remembered | None:
    if node.attributes.get_int("training_mode", 0) or len(node.inputs) < 5:
        return None
    data, mean, variance = node.inputs[0], constant_array(node.inputs[3]), constant_array(node.inputs[4])
    if data is None or data.producer() is None or mean is None or variance is None:
        return None
    spread = variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5)
    centre = mean.astype(np.float64)
    if not (np.isfinite(spread).all() and np.isfinite(centre).all() and (spread > 0.0).all()):
        return None
    return Remembered(data.name or "", centre.astype(np.float32), np.sqrt(spread).astype(np.float32))
