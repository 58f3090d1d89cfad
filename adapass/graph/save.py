"""Write a model to a file: the same model gives the same bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from adapass.graph.tensors import graphs_everywhere, in_memory, tensor_bytes

EMBEDDED_BYTES = 1_500_000_000
"""Models with more weights than this keep them in a second file, ``NAME.data``."""


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``, whole or not at all; large weights go to ``path`` + ``.data``."""
    file = Path(path)
    if tensor_bytes(model) > EMBEDDED_BYTES:
        untyped: Any = ir
        untyped.save(model, file, external_data=file.name + ".data")
        return
    data = to_bytes(model)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as handle:
        temporary = Path(handle.name)
        handle.write(data)
    temporary.chmod(0o644)
    temporary.replace(file)


def to_bytes(model: ir.Model) -> bytes:
    """The model as one protobuf with all weights inside (at most 2 GB)."""
    with _weights_in_memory(model):
        return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


@contextmanager
def _weights_in_memory(model: ir.Model) -> Generator[None]:
    replaced: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in graphs_everywhere(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    replaced.append((value, tensor))
                    value.const_value = in_memory(tensor)
        yield
    finally:
        for value, tensor in replaced:
            value.const_value = tensor
