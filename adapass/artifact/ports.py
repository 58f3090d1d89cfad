"""The inputs and outputs of a model, as the manifest states them."""

from __future__ import annotations

import onnx_ir as ir

from adapass.artifact.manifest import Port


def model_ports(model: ir.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs. An input with an initializer of its name has a default value."""
    graph = model.graph
    inputs = tuple(_port(value, optional=value.name in graph.initializers) for value in graph.inputs)
    return inputs, tuple(_port(value, optional=False) for value in graph.outputs)


def _port(value: ir.Value, *, optional: bool) -> Port:
    return Port(name=value.name or "", dtype=_dtype(value), shape=_shape(value.shape), optional=optional)


def _dtype(value: ir.Value) -> str:
    if not isinstance(value.type, ir.TensorType):
        return str(value.type)
    if value.type.dtype == ir.DataType.STRING:
        return "str"
    return value.type.dtype.numpy().name


def _shape(shape: ir.Shape | None) -> tuple[int | str | None, ...] | None:
    if shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in shape)
