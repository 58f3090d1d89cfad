"""Join matrix products of one input into a wider one.

    q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv)
    ->
    q, k, v = Split<axis=-1>(MatMul(x, [wq | wk | wv]))

One wide product uses the cores better than three narrow ones; the Split costs a copy of the result, so it
pays where the input is small (few tokens) and not everywhere. That is why it is not part of the default
pipeline: the search decides by measurement. Every column is the same sum as before, but a wider
kernel may sum in another order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array, constant_tensor
from adapass.graph.edit import fresh_name, mark_roots, new_initializer, remove_dead_nodes, replace_subgraph
from adapass.graph.shapes import infer_shapes
from adapass.rewrite import Exactness, Pass, PassResult

TOO_FEW = "fewer products share the input than min_count"
FIRST_OPSET = 13
"""Since then Split takes its sizes as an input."""


@dataclass(frozen=True, kw_only=True)
class MergeParallelMatmuls(Pass):
    """Join MatMuls with the same first input and constant two-dimensional weights.

    Biases stay where they are, on the parts. A site is the first product of a group.
    """

    name: ClassVar[str] = "merge-parallel-matmuls"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    min_count: int = 2
    """Smallest number of products worth joining."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        mark_roots(model)
        if model.opset_imports.get("", 0) < FIRST_OPSET:
            return PassResult(applied=0, rejected=MappingProxyType({"the opset has no Split by sizes": 1}))
        rejected: Counter[str] = Counter()
        sites: list[str] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for group in _groups(graph):
                site = group[0].outputs[0].name or ""
                if only is not None and site not in only:
                    continue
                if len(group) < self.min_count:
                    rejected[TOO_FEW] += 1
                    continue
                _join(graph, group)
                sites.append(site)
        if sites:
            remove_dead_nodes(model)
            infer_shapes(model)
            facts.keep_only(())
        return PassResult(applied=len(sites), rejected=MappingProxyType(dict(rejected)), sites=tuple(sites))


def _groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """MatMuls by what they multiply and by the type and height of their weights, in execution order."""
    groups: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        if node.domain != "" or node.op_type != "MatMul":
            continue
        weight = constant_tensor(node.inputs[1])
        if weight is None or len(weight.shape) != 2:
            continue
        key = (id(node.inputs[0]), weight.dtype, weight.shape[0])
        groups.setdefault(key, []).append(node)
    return list(groups.values())


def _join(graph: ir.Graph, group: list[ir.Node]) -> None:
    weights = [array for node in group if (array := constant_array(node.inputs[1])) is not None]
    first = group[0]
    base = first.outputs[0].name or "product"
    wide = new_initializer(graph, f"{base}_weights", np.concatenate(weights, axis=1))
    widths = new_initializer(graph, f"{base}_widths", np.array([w.shape[1] for w in weights], np.int64))
    product = ir.Node("", "MatMul", [first.inputs[0], wide], num_outputs=1)
    product.outputs[0].name = fresh_name(graph, f"{base}_joined")
    split = ir.Node(
        "", "Split", [product.outputs[0], widths], [ir.AttrInt64("axis", -1)], num_outputs=len(group)
    )
    old = [node.outputs[0] for node in group]
    replace_subgraph(first, old=old, new=split.outputs, nodes=[product, split])
