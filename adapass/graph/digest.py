"""A digest of everything in a model that can change what it computes or how it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import onnx_ir as ir

from adapass.graph.tensors import reopened


def digest(model: ir.Model) -> str:
    """A hex digest of nodes, attributes, weights, interfaces, functions and opsets.

    Names of values count (a rename is a change); names of nodes, doc strings and metadata do not.
    """
    state = hashlib.blake2b(digest_size=16)
    state.update(repr(sorted(model.opset_imports.items())).encode())
    _graph(state, model.graph)
    for identifier, function in sorted(model.functions.items(), key=lambda item: repr(item[0])):
        state.update(repr(identifier).encode())
        _values(state, function.inputs)
        _nodes(state, function)
        _values(state, function.outputs)
    return state.hexdigest()


def _graph(state: hashlib.blake2b, graph: ir.Graph) -> None:
    _values(state, graph.inputs)
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        state.update(f"init {name}".encode())
        _tensor(state, tensor)
    _nodes(state, graph)
    _values(state, graph.outputs)


def _values(state: hashlib.blake2b, values: Iterable[ir.Value]) -> None:
    for value in values:
        state.update(f"{value.name}|{value.type}|{value.shape};".encode())


def _nodes(state: hashlib.blake2b, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        inputs = [None if value is None else value.name for value in node.inputs]
        state.update(
            f"{node.domain}.{node.op_type}.{node.overload}{inputs}{[v.name for v in node.outputs]}".encode()
        )
        for name in sorted(node.attributes):
            _attribute(state, node.attributes[name])


def _attribute(state: hashlib.blake2b, attribute: ir.Attr) -> None:
    state.update(f"{attribute.name}:{attribute.type}".encode())
    if attribute.is_ref():
        state.update(f"@{attribute.ref_attr_name}".encode())
    elif attribute.type == ir.AttributeType.GRAPH:
        _graph(state, attribute.as_graph())
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            _graph(state, graph)
    elif attribute.type == ir.AttributeType.TENSOR:
        _tensor(state, attribute.as_tensor())
    elif attribute.type == ir.AttributeType.TENSORS:
        for tensor in attribute.as_tensors():
            _tensor(state, tensor)
    else:
        state.update(repr(attribute.value).encode())


def _tensor(state: hashlib.blake2b, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        state.update(b"none")
        return
    state.update(f"{tensor.dtype}{tensor.shape}".encode())
    if tensor.dtype == ir.DataType.STRING:
        state.update(repr(tensor.numpy().tolist()).encode())
    else:
        state.update(reopened(tensor).tobytes())


SMALL_ELEMENTS = 64


def structure_key(model: ir.Model) -> str:
    """A hex key equal for models that take equally long: names and large weights do not count.

    Operators, attributes, shapes and types do, and so do small constants (axes, target shapes,
    slice bounds, thresholds), because they steer what is computed.
    """
    state = hashlib.blake2b(digest_size=16)
    numbers: dict[str, int] = {}
    state.update(repr(sorted(model.opset_imports.items())).encode())
    for value in model.graph.inputs:
        state.update(f"in {_number(numbers, value.name)} {value.type} {value.shape}".encode())
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        state.update(f"{node.domain}.{node.op_type}.{node.overload}".encode())
        for read in node.inputs:
            _structure_input(state, numbers, read)
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if attribute.type not in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
                _attribute(state, attribute)
        state.update(repr([_number(numbers, value.name) for value in node.outputs]).encode())
    state.update(repr([_number(numbers, value.name) for value in model.graph.outputs]).encode())
    return state.hexdigest()


def _number(numbers: dict[str, int], name: str | None) -> int:
    return numbers.setdefault(name or "", len(numbers))


def _structure_input(state: hashlib.blake2b, numbers: dict[str, int], value: ir.Value | None) -> None:
    if value is None:
        state.update(b"-")
        return
    state.update(str(_number(numbers, value.name)).encode())
    tensor = value.const_value
    if tensor is None:
        return
    state.update(f"{tensor.dtype}{tensor.shape}".encode())
    if tensor.size <= SMALL_ELEMENTS and tensor.dtype != ir.DataType.STRING:
        state.update(tensor.tobytes())
