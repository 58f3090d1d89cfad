"""The main graph as a directed graph: what runs for a feed, in execution order.

Constants are left out, and so is everything that computes on constants only (a ``Cast`` of stored
weights): it costs nothing per run and would tie all layers together. What a subgraph reads from
outside counts as an input of the node that holds the subgraph. Dead nodes are left out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import networkx as nx
import onnx_ir as ir

from adapass.facts import Fact, FactCache
from adapass.graph.tensors import subgraphs_of

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True, slots=True)
class Dataflow(Fact):
    """Live nodes that depend on a feed. A node is known by its position in ``nodes``."""

    nodes: tuple[ir.Node, ...]
    """In execution order."""
    reads: tuple[tuple[ir.Value, ...], ...]
    """Per node, the non-constant values it reads (captured ones included), without repeats."""
    constants: tuple[tuple[ir.Value, ...], ...]
    """Per node, the constant values it reads, stored or computed from stored ones."""
    inputs: tuple[ir.Value, ...]
    """Graph inputs, those with a default included."""
    outputs: frozenset[ir.Value]
    producer: Mapping[ir.Value, int] = field(repr=False)
    """The node that computes a value; graph inputs are absent."""
    readers: Mapping[ir.Value, tuple[int, ...]] = field(repr=False)
    graph: nx.DiGraph[int] = field(compare=False, repr=False)
    """Edges follow the data from node to node."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del facts
        every = _in_order(model.graph)
        runtime = _runtime_values(model.graph, every)
        live = _live(model.graph, every)
        nodes = tuple(node for node in every if node in live and any(out in runtime for out in node.outputs))
        read = [tuple(dict.fromkeys(values_read(node))) for node in nodes]
        producer = {value: index for index, node in enumerate(nodes) for value in node.outputs}
        reads = tuple(tuple(value for value in values if value in runtime) for values in read)
        readers: dict[ir.Value, list[int]] = {}
        for index, values in enumerate(reads):
            for value in values:
                readers.setdefault(value, []).append(index)
        return cls(
            nodes=nodes,
            reads=reads,
            constants=tuple(tuple(value for value in values if value not in runtime) for values in read),
            inputs=tuple(model.graph.inputs),
            outputs=frozenset(model.graph.outputs),
            producer=MappingProxyType(producer),
            readers=MappingProxyType({value: tuple(found) for value, found in readers.items()}),
            graph=_digraph(len(nodes), reads, producer),
        )

    def ancestors(self, value: ir.Value) -> frozenset[int]:
        """Nodes that must run before ``value`` is known, its producer included."""
        if value not in self.producer:
            return frozenset()
        return _reach([self.producer[value]], self.graph.predecessors)

    def descendants(self, value: ir.Value) -> frozenset[int]:
        """Nodes whose result depends on ``value``."""
        return _reach(self.readers.get(value, ()), self.graph.successors)

    def values(self) -> Iterable[ir.Value]:
        """Graph inputs, then every computed value in execution order."""
        yield from self.inputs
        for node in self.nodes:
            yield from (value for value in node.outputs if value.name)


def name_of(value: ir.Value | None) -> str:
    """The name of a value; empty where an optional input or output is left out."""
    return "" if value is None or value.name is None else value.name


def fixed_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The declared shape, when every dimension is a number."""
    if value.shape is None:
        return None
    sizes = tuple(dim for dim in value.shape if isinstance(dim, int))
    return sizes if len(sizes) == len(value.shape) else None


def _reach(starts: Iterable[int], neighbours: Callable[[int], Iterable[int]]) -> frozenset[int]:
    seen = set(starts)
    stack = sorted(seen)
    while stack:
        for node in neighbours(stack.pop()):
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return frozenset(seen)


def values_read(node: ir.Node) -> list[ir.Value]:
    """Inputs of ``node`` and what its subgraphs capture from outside, in order."""
    found = [value for value in node.inputs if value is not None]
    for subgraph in subgraphs_of(node):
        found.extend(_captured(subgraph))
    return found


def _captured(graph: ir.Graph) -> list[ir.Value]:
    own = {*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)}
    wanted = [value for node in graph for value in values_read(node)] + list(graph.outputs)
    return [value for value in wanted if value not in own]


def _in_order(graph: ir.Graph) -> list[ir.Node]:
    """Execution order; the stored order wherever that is one."""
    nodes = list(graph)
    producer = {value: index for index, node in enumerate(nodes) for value in node.outputs}
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(nodes)))
    for index, node in enumerate(nodes):
        order.add_edges_from((producer[value], index) for value in values_read(node) if value in producer)
    return [nodes[index] for index in nx.lexicographical_topological_sort(order)]


def _runtime_values(graph: ir.Graph, nodes: list[ir.Node]) -> frozenset[ir.Value]:
    known = set(graph.inputs)
    for node in nodes:
        if node.op_type in RANDOM or any(value in known for value in values_read(node)):
            known.update(node.outputs)
    return frozenset(known)


def _live(graph: ir.Graph, nodes: list[ir.Node]) -> frozenset[ir.Node]:
    wanted = set(graph.outputs)
    live: set[ir.Node] = set()
    for node in reversed(nodes):
        if any(value in wanted for value in node.outputs):
            live.add(node)
            wanted.update(values_read(node))
    return frozenset(live)


def _digraph(
    count: int, reads: tuple[tuple[ir.Value, ...], ...], producer: Mapping[ir.Value, int]
) -> nx.DiGraph[int]:
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(count))
    for index, values in enumerate(reads):
        graph.add_edges_from((producer[value], index) for value in values if value in producer)
    return graph
