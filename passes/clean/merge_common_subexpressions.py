"""Compute equal things once, store equal constants once.

    a = Shape(x); b = Shape(x); c = Concat(a, b)   ->   a = Shape(x); c = Concat(a, a)

Two nodes are equal when operator, inputs and attributes are. Random operators and operators with
subgraphs are never merged. Initializers with the same type, shape and bytes become one. Saves the
second computation; not one number changes, because equal operators on equal inputs give equal results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.edit import mark_roots, remove_node, replace_uses
from adapass.graph.tensors import subgraphs_of
from adapass.rewrite import Exactness, Pass, PassResult

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
PURE_DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft", "adapass"})
"""Whose operators give equal results for equal inputs; nothing is known about others."""
_Key = tuple[Hashable, ...]


@dataclass(frozen=True, kw_only=True)
class MergeCommonSubexpressions(Pass):
    """Share equal nodes and equal initializers.

    Outputs of the model are never merged away, and a function is looked at on its own.
    """

    name: ClassVar[str] = "merge-common-subexpressions"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    max_initializer_bytes: int = 1 << 24
    """Initializers above this size are not compared."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        mark_roots(model)
        sites: list[str] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            sites.extend(self._merge_initializers(graph, only))
        for top in (model.graph, *(function.graph for function in model.functions.values())):
            sites.extend(_merge_nodes(top, {}, only))
        if sites:
            facts.keep_only(())
        return PassResult(applied=len(sites), sites=tuple(sites))

    def _merge_initializers(self, graph: ir.Graph, only: frozenset[str] | None) -> Iterator[str]:
        kept: dict[_Key, ir.Value] = {}
        interface = frozenset([*graph.inputs, *graph.outputs])
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or value in interface or tensor.nbytes > self.max_initializer_bytes:
                continue
            first = kept.setdefault(_tensor_key(tensor), value)
            if first is value or (only is not None and name not in only):
                continue
            value.replace_all_uses_with(first)
            del graph.initializers[name]
            yield name


def _merge_nodes(graph: ir.Graph, outer: dict[_Key, ir.Node], only: frozenset[str] | None) -> Iterator[str]:
    """Merge in execution order; a subgraph may reuse what is known around it, not the other way round."""
    known = dict(outer)
    for node in list(graph):
        for subgraph in subgraphs_of(node):
            yield from _merge_nodes(subgraph, known, only)
        key = _node_key(node)
        if key is None:
            continue
        first = known.setdefault(key, node)
        site = node.outputs[0].name or ""
        if first is node or (only is not None and site not in only) or not _can_merge(node, first):
            continue
        for mine, theirs in zip(node.outputs, first.outputs, strict=True):
            replace_uses(mine, theirs)
        remove_node(node)
        yield site


def _can_merge(node: ir.Node, first: ir.Node) -> bool:
    """An output of a graph must keep its producer and its name, so its node stays."""
    if any(value.is_graph_output() for value in node.outputs):
        return False
    named = [bool(value.name) for value in node.outputs]
    return len(node.outputs) == len(first.outputs) and named == [bool(v.name) for v in first.outputs]


def _node_key(node: ir.Node) -> _Key | None:
    if not node.outputs or node.domain not in PURE_DOMAINS or node.op_type in RANDOM:
        return None
    if node.op_type == "Dropout" and len(node.inputs) > 2:
        return None
    attributes: list[Hashable] = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.is_ref():
            attributes.append((name, "ref", attribute.ref_attr_name))
            continue
        if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            return None
        attributes.append((name, _attribute_key(attribute)))
    inputs = tuple(None if value is None else id(value) for value in node.inputs)
    return (node.domain, node.op_type, node.overload, inputs, tuple(attributes), len(node.outputs))


def _attribute_key(attribute: ir.Attr) -> Hashable:
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_key(attribute.as_tensor())
    if attribute.type == ir.AttributeType.TENSORS:
        return tuple(_tensor_key(tensor) for tensor in attribute.as_tensors())
    if attribute.type in {ir.AttributeType.FLOAT, ir.AttributeType.FLOATS}:
        return (str(attribute.type), np.asarray(attribute.value, np.float64).tobytes())
    return (str(attribute.type), repr(attribute.value))


def _tensor_key(tensor: ir.TensorProtocol) -> _Key:
    shape = tuple(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return (tensor.dtype, shape, repr(tensor.numpy().tolist()))
    return (tensor.dtype, shape, hashlib.sha256(tensor.tobytes()).digest())
