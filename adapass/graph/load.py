"""Open an ONNX model that nobody vouches for.

Nothing in the file is executed or followed blindly: the protobuf has a bounded size, external
weights stay inside the model's folder, and what is read is checked before anything else sees it.
Shapes and types of intermediate values are dropped and inferred again, because exporters leave
stale ones behind and every later step trusts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from adapass.errors import ModelError
from adapass.graph.check import check_proto
from adapass.graph.shapes import infer_shapes, skeleton
from adapass.graph.tensors import replace_external_attributes, tensors_everywhere
from adapass.graph.text import parse

MAX_PROTOBUF_BYTES = (1 << 31) - 1
"""The limit of protobuf itself; larger models keep their weights in external files."""
OLDEST_IR_VERSION = 4
"""Before this version every initializer had to be listed as an input as well."""


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read, check and normalise the model at ``path`` (``.onnx``, or ONNX text in ``.onnxtxt``).

    External weights stay on disk until they are used.

    Raises:
        ModelError: missing, unreadable, unsafe or not valid ONNX; the message says what to do.

    """
    file = Path(path)
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "missing"
        raise ModelError(f"model '{file}' is {kind}; give the path of an .onnx file")
    if file.suffix == ".onnxtxt":
        return parse(_bounded_bytes(file).decode("utf-8", errors="replace"))
    return from_proto(_read_proto(file), folder=file.parent, origin=str(file))


def from_proto(proto: onnx.ModelProto, *, folder: Path | None = None, origin: str = "model") -> ir.Model:
    """Check and normalise a model in memory; ``folder`` is where its external data may lie.

    Raises:
        ModelError: unsafe, or not valid ONNX. ``origin`` names it in the message.

    """
    if not proto.HasField("graph"):
        raise ModelError(f"{origin} holds no graph; it is not an ONNX model (or the file is truncated)")
    _refuse_sparse(proto.graph, origin)
    _refuse_odd_ranges(proto, origin)
    try:
        model = ir.from_proto(proto)
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{origin} is not valid ONNX: {_cause(error)}; export it again") from error
    _contain_tensors(model, folder, origin)
    _check_sizes(model, origin)
    replace_external_attributes(model)
    check_proto(skeleton(model), full=False, error=ModelError, origin=origin)
    return normalize(model)


def normalize(model: ir.Model) -> ir.Model:
    """Bring a model into the form passes expect, in place: fresh shapes, no old-style initializer inputs."""
    if model.ir_version < OLDEST_IR_VERSION:
        RemoveInitializersFromInputsPass()(model)
        model.ir_version = OLDEST_IR_VERSION
    infer_shapes(model)
    return model


def _cause(error: BaseException) -> BaseException:
    """The innermost error: the outer ones only say which part was being read."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _bounded_bytes(file: Path) -> bytes:
    size_bytes = file.stat().st_size
    if size_bytes > MAX_PROTOBUF_BYTES:
        raise ModelError(
            f"'{file}' has {size_bytes} bytes, more than the {MAX_PROTOBUF_BYTES} a protobuf can hold; "
            "save the model with external data"
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"'{file}' cannot be read: {error}") from error


def _read_proto(file: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(_bounded_bytes(file))
    except DecodeError as error:
        raise ModelError(
            f"'{file}' is not an ONNX model ({error}); check that the download is complete"
        ) from error
    return proto


def _refuse_sparse(graph: onnx.GraphProto, origin: str) -> None:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(
            f"{origin}: initializer '{name}' is sparse, which is not supported; store it densely"
        )


def _refuse_odd_ranges(proto: onnx.ModelProto, origin: str) -> None:
    """The offset and length of external data are plain numbers; libraries below trip over others."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    for tensor in [*proto.graph.initializer, *_tensors_below(nodes)]:
        for entry in tensor.external_data:
            if entry.key in {"offset", "length"} and not entry.value.isdecimal():
                raise ModelError(
                    f"{origin}: external data of tensor '{tensor.name}' has {entry.key} '{entry.value}', "
                    "which is not a number of bytes; export the model again"
                )


def _tensors_below(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graph.initializer
                yield from _tensors_below(graph.node)


def _contain_tensors(model: ir.Model, folder: Path | None, origin: str) -> None:
    for tensor in tensors_everywhere(model):
        if isinstance(tensor, ir.ExternalTensor):
            _contain(tensor, folder, origin)


def _contain(tensor: ir.ExternalTensor, folder: Path | None, origin: str) -> None:
    """Refuse whatever would read outside the model's folder or outside the data file."""
    location = tensor.path  # the bare location: no base folder is set yet
    at_fault = f"{origin}: external data of tensor '{tensor.name}' at '{location}'"
    if folder is None:
        raise ModelError(f"{at_fault} has no folder to lie in; load the model from its file")
    if not location or Path(location).is_absolute() or "\\" in location or ".." in Path(location).parts:
        raise ModelError(f"{at_fault} leaves the model's folder; only files inside it are read")
    root = folder.resolve()
    target = (root / location).resolve()
    if not target.is_relative_to(root):
        raise ModelError(f"{at_fault} is a link out of the model's folder ({target}); copy the file into it")
    if not target.is_file():
        raise ModelError(f"{at_fault} is missing; put it beside the model, under {root}")
    tensor.base_dir = root
    _check_range(tensor, target.stat().st_size, at_fault)


def _check_range(tensor: ir.ExternalTensor, file_bytes: int, at_fault: str) -> None:
    offset, length = tensor.offset or 0, tensor.length
    needed = tensor.nbytes
    if length is not None and length != needed:
        raise ModelError(
            f"{at_fault} has {length} bytes, but its shape {tensor.shape} needs {needed}; export again"
        )
    if offset + needed > file_bytes:
        raise ModelError(
            f"{at_fault} ends at byte {offset + needed}, but the file has {file_bytes}; it is truncated"
        )


def _check_sizes(model: ir.Model, origin: str) -> None:
    for tensor in tensors_everywhere(model):
        raw = tensor.raw if isinstance(tensor, ir.TensorProtoTensor) else None
        if not isinstance(raw, onnx.TensorProto) or not raw.HasField("raw_data"):
            continue
        if any(dim < 0 for dim in raw.dims) or len(raw.raw_data) != tensor.nbytes:
            raise ModelError(
                f"{origin}: tensor '{tensor.name}' has {len(raw.raw_data)} bytes of data, but its shape "
                f"{list(raw.dims)} needs {tensor.nbytes}; the file is damaged"
            )
