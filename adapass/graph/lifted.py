"""Large weights as inputs: a runtime reads them where they lie, mapped from their file, and copies nothing.

    y = MatMul (x, w)   w stored [4096, 1024]   ->   w is an input, and is fed what was stored

A model that is loaded as a protobuf is in memory three times while that happens, and its weights once more
while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.tensors import reopened

Array = npt.NDArray[np.generic]

LARGE_BYTES = 1 << 20
"""Smaller tensors steer shapes, axes and fusions, and are not worth it."""
PLAIN = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
        ir.DataType.BOOL,
    }
)
"""Types that numpy knows as well."""
READERS = frozenset(
    {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Gather", "Add", "Mul", "Transpose"}
)
"""Operators whose kernels take a computed weight wherever they take a stored one."""


@dataclass(frozen=True, slots=True)
class Lifted:
    """A model without its large weights, and the weights as feeds."""

    model: ir.Model
    weights: Mapping[str, Array]


def lift_weights(model: ir.Model) -> Lifted:
    """A copy of ``model`` that takes its large weights as further inputs."""
    copy = model.clone()
    weights: dict[str, Array] = {}
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < LARGE_BYTES or tensor.dtype not in PLAIN:
            continue
        if value.is_graph_input() or value.is_graph_output() or not _may_be_computed(value):
            continue
        weights[name] = np.require(reopened(tensor).numpy(), requirements=["C", "A"])
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value.const_value = None
        del copy.graph.initializers[name]
        copy.graph.inputs.append(value)
    return Lifted(copy, MappingProxyType(weights))


def _may_be_computed(value: ir.Value) -> bool:
    return all(use.node.op_type in READERS and use.node.domain == "" for use in value.uses())
