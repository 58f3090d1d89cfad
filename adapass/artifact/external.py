"""Which files an ONNX file needs beside it: the external data its tensors refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from adapass.artifact.files import check_relative
from adapass.errors import ArtifactError


def read_proto(path: Path) -> onnx.ModelProto:
    """The file as it is, external data left where it lies.

    Raises:
        ArtifactError: not an ONNX file.

    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own errors
        raise ArtifactError(f"{path} is not a readable ONNX file: {error}") from error
    return model


def external_files(model_path: Path) -> tuple[str, ...]:
    """Relative paths of the external data of ``model_path``, sorted; each is a regular file in its folder.

    Raises:
        ArtifactError: unreadable model, a path or link that leaves the folder, or a missing file.

    """
    model = read_proto(model_path)
    tensors = [
        t for nodes in (model.graph.node, *(f.node for f in model.functions)) for t in _of_nodes(nodes)
    ]
    locations = {
        _location(t) for t in (*_of_graph_itself(model.graph), *tensors) if t.data_location == t.EXTERNAL
    }
    return tuple(sorted(_checked(location, model_path) for location in locations))


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _checked(location: str, model_path: Path) -> str:
    relative = check_relative(location, f"{model_path}, external data")
    root = model_path.parent.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise ArtifactError(
            f"{root / relative} is a link out of the folder of {model_path.name}; put the file itself there"
        )
    if not path.is_file():
        raise ArtifactError(
            f"{root / relative}: external data of {model_path.name} is missing; put it beside the model"
        )
    return relative.as_posix()


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph_itself(graph)
    yield from _of_nodes(graph.node)


def _of_graph_itself(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (a for node in nodes for a in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _of_graph(graph)
