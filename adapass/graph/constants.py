"""Which values are constants, and what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.tensors import reopened

Array = npt.NDArray[np.generic]
RESTORES = "adapass.stored-weight"
"""Metadata key of nodes that restore a weight from a smaller form: computing them early would undo that."""


def constant_array(value: ir.Value | None) -> Array | None:
    """The array behind an initializer or ``Constant`` node; ``None`` when the value may differ between runs.

    An initializer that is also a graph input is a default, not a constant.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else reopened(tensor).numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Like ``constant_array``, without reading the data: shape and type are free."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "" or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.name == "sparse_value":
        return None
    return ir.convenience.get_const_tensor(value)
