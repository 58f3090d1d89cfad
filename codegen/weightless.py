"""A model without its large weights: cheap to hand to a runtime that is asked whether it takes it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from adapass.graph.shapes import KEPT_BYTES


def without_weights(model: ir.Model) -> bytes:
    """The model with every large initializer of the main graph as an input instead."""
    copy = model.clone()
    graph = copy.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= KEPT_BYTES or value.is_graph_output():
            continue
        del graph.initializers[name]
        value.const_value = None
        if not value.is_graph_input():
            graph.inputs.append(value)
        value.type = ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(tensor.shape.numpy())
    proto: onnx.ModelProto = ir.to_proto(copy)
    return bytes(proto.SerializeToString())
