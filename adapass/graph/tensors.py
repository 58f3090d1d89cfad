"""Walk over every graph and every stored tensor of a model, wherever it hides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir


def graphs_everywhere(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, its subgraphs at any depth, then every function's graph and its subgraphs."""
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        yield top
        yield from top.subgraphs()


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs in the attributes of ``node`` (branches, loop bodies)."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def tensors_everywhere(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Initializers and tensor attributes of every graph."""
    for graph in graphs_everywhere(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            yield from _attribute_tensors(node)


def _attribute_tensors(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from attribute.as_tensors()


def replace_external_attributes(model: ir.Model) -> None:
    """Read external tensors that sit in attributes into memory: only initializers stay lazy."""
    for graph in graphs_everywhere(model):
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
                    continue
                tensor = attribute.as_tensor()
                if isinstance(tensor, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, in_memory(tensor))


def reopened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same contents with nothing of them in memory: what is read through the result goes with it.

    An external tensor that was read once stays mapped as long as it lives, and all of it that was touched
    counts as memory in use.
    """
    if not isinstance(tensor, ir.ExternalTensor) or not tensor.valid():
        return tensor
    untyped: Any = tensor
    return ir.ExternalTensor(
        untyped.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        base_dir=untyped.base_dir,
    )


def in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A copy of ``tensor`` that no longer needs its file."""
    return ir.Tensor(reopened(tensor).numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors; the rest of a model is small."""
    return sum(tensor.nbytes for tensor in tensors_everywhere(model))
