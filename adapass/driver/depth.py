"""What the exits of a model are, as its metadata tells: rule, thresholds, and how deep each one lies."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.ops import EXIT_THRESHOLDS, EXITS_METADATA


@dataclass(frozen=True, slots=True)
class ExitsRecord:
    """Exits in order of execution."""

    rule: str
    thresholds: tuple[float, ...]
    depths: tuple[float, ...]
    """Share of the model's work done before each exit."""


def exits_record(model: ir.Model) -> ExitsRecord | None:
    """The exits of ``model``, thresholds as they are now."""
    text = model.metadata_props.get(EXITS_METADATA)
    if text is None or EXIT_THRESHOLDS not in model.graph.initializers:
        return None
    record = json.loads(text)
    tensor = model.graph.initializers[EXIT_THRESHOLDS].const_value
    thresholds = np.asarray(tensor.numpy(), np.float64) if tensor is not None else np.zeros(0)
    depths = tuple(float(head["depth"]) for head in record["heads"])
    return ExitsRecord(str(record["rule"]), tuple(float(t) for t in thresholds), depths)
