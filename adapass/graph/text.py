"""The text form: ONNX text that prints and parses back exactly.

Shapes of intermediate values are left out: they are derived, and ``parse`` derives them again.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from adapass.errors import ModelError
from adapass.graph.edit import mark_roots
from adapass.graph.shapes import drop_derived, forget_tensor_names
from adapass.graph.tensors import graphs_everywhere


def to_text(model: ir.Model) -> str:
    """ONNX text of the whole model, weights included: meant for small models (tests, reproducers)."""
    proto = ir.to_proto(model)
    forget_tensor_names(proto)
    drop_derived(proto.graph)
    return onnx.printer.to_text(proto)


def parse(text: str) -> ir.Model:
    """The model a text stands for.

    Raises:
        ModelError: the text does not parse, or is not a valid model.

    """
    from adapass.graph.load import from_proto

    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise ModelError(f"not ONNX text: {error}") from error
    return from_proto(proto, origin="the text")


def clone(model: ir.Model) -> ir.Model:
    """A model that can be rewritten without touching ``model``. Tensors are shared: they are immutable."""
    copy = model.clone()
    mark_roots(copy)  # the marks of the original came along and point into the original
    for graph in graphs_everywhere(copy):
        for value in _values_of(graph):
            # Type objects come shared, and assigning to `dtype` changes them in place.
            if isinstance(value.type, ir.TensorType):
                value.type = ir.TensorType(value.type.dtype)
    return copy


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
