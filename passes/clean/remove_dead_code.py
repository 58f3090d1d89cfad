"""Remove what no output depends on.

    y = Relu(x); z = Exp(x); return y   ->   y = Relu(x); return y

Nodes (in subgraphs and functions too), initializers, functions nobody calls and opset imports
nobody needs. Inputs and outputs of the model stay as they are: they are its interface. Not one number
changes, because nothing that is computed for an output is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass

from adapass.facts import FactCache
from adapass.graph.edit import remove_node
from adapass.graph.tensors import graphs_everywhere, subgraphs_of
from adapass.rewrite import Exactness, Pass, PassResult


@dataclass(frozen=True, kw_only=True)
class RemoveDeadCode(Pass):
    """Drop nodes, initializers, functions and opset imports that no output needs."""

    name: ClassVar[str] = "remove-dead-code"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        del facts
        sites = [*_dead_nodes(model, only), *_dead_initializers(model, only)]
        if only is None:
            sites += [*_dead_functions(model), *_dead_opsets(model)]
        return PassResult(applied=len(sites), sites=tuple(sites))


def _dead_nodes(model: ir.Model, only: frozenset[str] | None) -> Iterator[str]:
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        yield from _dead_in(top, only)


def _dead_in(graph: ir.Graph, only: frozenset[str] | None) -> Iterator[str]:
    outputs = frozenset(graph.outputs)
    for node in reversed(graph):
        site = node.outputs[0].name or "" if node.outputs else ""
        if any(value in outputs or value.uses() for value in node.outputs):
            for subgraph in subgraphs_of(node):
                yield from _dead_in(subgraph, only)
        elif only is None or site in only:
            remove_node(node)
            yield site


def _dead_initializers(model: ir.Model, only: frozenset[str] | None) -> Iterator[str]:
    for graph in graphs_everywhere(model):
        interface = frozenset([*graph.inputs, *graph.outputs])
        for name, value in list(graph.initializers.items()):
            if not value.uses() and value not in interface and (only is None or name in only):
                del graph.initializers[name]
                yield name


def _dead_functions(model: ir.Model) -> list[str]:
    before = list(model.functions)
    unused: Any = RemoveUnusedFunctionsPass
    unused()(model)
    return [
        f"{domain}.{name}"
        for domain, name, overload in before
        if (domain, name, overload) not in model.functions
    ]


def _dead_opsets(model: ir.Model) -> list[str]:
    before = list(model.opset_imports)
    RemoveUnusedOpsetsPass(process_functions=False)(model)
    return [f"opset {domain}" for domain in before if domain not in model.opset_imports]
