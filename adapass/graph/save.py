"""Write a model to a file: the same model gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from adapass.graph.shapes import drop_derived, forget_tensor_names, infer_shapes
from adapass.graph.tensors import graphs_everywhere, in_memory, reopened, tensor_bytes

EMBEDDED_BYTES = 500_000_000
"""Models with more weights than this keep them in a second file, ``NAME.data``, tensor by tensor: a protobuf
is built in memory as a whole, and takes three times its size there."""


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``, whole or not at all; large weights go to ``path`` + ``.data``.

    The shapes of intermediate values are inferred once more, so that no stale ones are written.
    """
    file = Path(path)
    infer_shapes(model)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        if tensor_bytes(model) > EMBEDDED_BYTES:
            if file.with_name(file.name + ".data").exists():
                _hold(model)
            untyped: Any = ir
            untyped.save(model, temporary, format="protobuf", external_data=file.name + ".data")
        else:
            temporary.write_bytes(_embedded(model).SerializeToString(deterministic=True))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _hold(model: ir.Model) -> None:
    """Read what is a part of other tensors: the file that those lie in may be about to be replaced."""
    for graph in graphs_everywhere(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.LazyTensor):
                value.const_value = in_memory(value.const_value)


def to_bytes(model: ir.Model) -> bytes:
    """The model as one protobuf with all weights and no intermediate shapes inside (at most 2 GB)."""
    proto = _embedded(model)
    drop_derived(proto.graph)
    return bytes(proto.SerializeToString(deterministic=True))


def _embedded(model: ir.Model) -> onnx.ModelProto:
    with _weights_inside(model):
        proto = ir.to_proto(model)
    forget_tensor_names(proto)
    return proto


@contextmanager
def _weights_inside(model: ir.Model) -> Generator[None]:
    replaced: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in graphs_everywhere(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    replaced.append((value, tensor))
                    value.const_value = ir.LazyTensor(
                        partial(reopened, tensor), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name
                    )
        yield
    finally:
        for value, tensor in replaced:
            value.const_value = tensor
