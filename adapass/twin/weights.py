"""Which stored tensors are weights, and what they are called in torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from adapass.twin.dtypes import FLOATS

NOT_LEARNED: Final[Mapping[str, frozenset[int]]] = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "OneHot": frozenset({2}),
    "Pad": frozenset({2}),
    "Pow": frozenset({1}),
    "QLinearConv": frozenset({1, 4, 6}),
    "QLinearMatMul": frozenset({1, 4, 6}),
    "QuantizeLinear": frozenset({1, 2}),
    "Range": frozenset({0, 1, 2}),
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
}
"""Inputs of floating point that set how an operator works, by position."""
_LARGEST: Final = 1e30
"""Beyond this a number stands for infinity (masks)."""


def is_weight(value: ir.Value) -> bool:
    """Floating point, an array (a scalar is part of a formula, as 1/sqrt(width) is), and read as a weight."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or tensor.dtype not in FLOATS:
        return False
    if not tensor.shape.numpy() or tensor.size == 0:
        return False
    if any(use.idx in NOT_LEARNED.get(use.node.op_type, ()) for use in value.uses()):
        return False
    array = tensor.numpy().astype(np.float64, copy=False)
    return bool(np.abs(array).max() < _LARGEST)


def safe_name(name: str, taken: set[str]) -> str:
    """A Python identifier for ``name`` that is not in ``taken``, to which it is added."""
    base = "w_" + (re.sub(r"\W", "_", name, flags=re.ASCII) or "unnamed")
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    taken.add(found)
    return found
