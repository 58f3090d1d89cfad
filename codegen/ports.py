"""Inputs and outputs that a generator may have to decline, in words that name the generator."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from adapass.codegen.defaults import MAX_DEFAULT_BYTES


def against_ports(model: ir.Model, generator: str, declined: Collection[ir.DataType]) -> Iterator[str]:
    """What is no tensor, of a type in ``declined``, or has a default too large to be kept in a plan."""
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if not isinstance(value.type, ir.TensorType):
                yield f"{what} '{value.name}' is no tensor"
            elif value.dtype in declined:
                yield f"{what} '{value.name}' is {value.dtype}, which {generator} does not compute in"
    for value in model.graph.inputs:
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > MAX_DEFAULT_BYTES:
            yield f"input '{value.name}' has a default of {tensor.nbytes} bytes, at most {MAX_DEFAULT_BYTES}"
