"""Shapes and types of intermediate values: always inferred, never believed.

Inference runs in ONNX's C++ on a skeleton of the model: the data of large tensors is left out, so
models of any size pass through the 2 GB limit of protobuf and nothing large is copied.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnx import shape_inference

from adapass.graph.refine import refine
from adapass.graph.tensors import graphs_everywhere, reopened

KEPT_BYTES = 4096
"""Tensors up to this size keep their data in a skeleton: inference reads shapes, axes and pads from them."""
MAX_ROUNDS = 8
"""Each round settles at least one dimension that ONNX left open; models need one or two."""


def infer_shapes(model: ir.Model) -> None:
    """Forget the shapes and types of all intermediate values of ``model`` and infer them again, in place.

    Inputs, outputs and initializers keep theirs. A node that inference does not know leaves its
    outputs unknown.
    """
    forget_shapes(model)
    _infer_once(model)
    settled: set[ir.Value] = set()
    for _ in range(MAX_ROUNDS):
        found = refine(model.graph)
        if not found:
            return
        settled |= found
        _forget_open(model.graph, settled)
        _infer_once(model)


def _forget_open(graph: ir.Graph, settled: set[ir.Value]) -> None:
    """Let the next round infer everything again that hangs on a dimension without a name."""
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and value not in settled and not value.is_graph_output():
                value.shape = None


def _infer_once(model: ir.Model) -> None:
    proto = skeleton(model)
    try:
        inferred = shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        # Data propagation is a refinement; some valid models (mixed opsets in functions) trip over it.
        inferred = shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=False)
    _adopt(model, ir.from_proto(inferred))


def forget_shapes(model: ir.Model) -> None:
    """Clear shape and type of every value that a node computes, except graph outputs."""
    for graph in graphs_everywhere(model):
        outputs = frozenset(graph.outputs) if graph is model.graph else frozenset[ir.Value]()
        for node in graph:
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None
                    value.type = None


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as a protobuf whose large initializers have a type and a shape but no data."""
    with _without_large_data(model):
        return ir.to_proto(model)


def drop_derived(graph: onnx.GraphProto) -> None:
    """Remove the shapes of intermediate values from a protobuf."""
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                drop_derived(attribute.g)
            for nested in attribute.graphs:
                drop_derived(nested)


def forget_tensor_names(proto: onnx.ModelProto) -> None:
    """Clear the names of tensors in attributes: nothing refers to them, and libraries leave their own."""
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        _forget_tensor_names(nodes)


def _forget_tensor_names(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.ClearField("name")
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _forget_tensor_names(graph.node)


@contextmanager
def _without_large_data(model: ir.Model) -> Generator[None]:
    removed: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in graphs_everywhere(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or (
                    tensor.nbytes <= KEPT_BYTES and not isinstance(tensor, ir.ExternalTensor)
                ):
                    continue
                removed.append((value, tensor))
                value.const_value = _placeholder(tensor)
        yield
    finally:
        for value, tensor in removed:
            value.const_value = tensor


def _placeholder(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= KEPT_BYTES:
        return ir.Tensor(reopened(tensor).numpy(), dtype=tensor.dtype, name=tensor.name)
    # ONNX takes a location that starts with '#' for "in memory elsewhere" and looks for no file.
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("#", 0, 0, tensor.dtype, shape=shape, name=tensor.name or "")


def _adopt(model: ir.Model, inferred: ir.Model) -> None:
    """Copy types and shapes over, graph by graph; the two models have the same structure."""
    for mine, theirs in zip(graphs_everywhere(model), graphs_everywhere(inferred), strict=True):
        for node, twin in zip(mine, theirs, strict=True):
            for value, known in zip(node.outputs, twin.outputs, strict=True):
                if value.type is None:
                    value.type = known.type
                if value.shape is None and known.shape is not None:
                    value.shape = known.shape.copy()
