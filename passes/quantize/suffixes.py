"""Run a model many times with a change that begins deep inside: only the part behind the change runs again.

The model is cut at a few places. What crosses a cut is computed once and fed to the part behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from adapass.budgeted import Array
from adapass.execution import Session
from adapass.graph.extract import extract
from adapass.graph.shapes import infer_shapes
from adapass.graph.tensors import subgraphs_of

Values = Mapping[str, Array]


class Suffixes:
    """Sessions over a model and over its parts behind each of ``starts`` (nodes of the main graph)."""

    def __init__(self, model: ir.Model, starts: Sequence[ir.Node]) -> None:
        infer_shapes(model)
        graph = model.graph
        self.outputs = tuple(value.name or "" for value in graph.outputs)
        self._inputs = tuple(value.name or "" for value in graph.inputs)
        self._crossing = {start: _crossing(graph, start) for start in starts}
        shown = [name for names in self._crossing.values() for name in names if name not in self._inputs]
        self._whole = Session(model, outputs=list(dict.fromkeys([*self.outputs, *shown])))
        self._parts = {
            start: Session(extract(model, names, _behind(graph, start)))
            for start, names in self._crossing.items()
        }

    def first(self, feeds: Values) -> Values:
        """Run all of the model: its inputs, its outputs, and all values that later runs start from."""
        return {**feeds, **self._whole.run(feeds)}

    def again(self, known: Values, changed: Values, start: ir.Node) -> Values:
        """The outputs when inputs are ``changed`` that only ``start`` and nodes behind it read."""
        inputs = {name: changed.get(name, known[name]) for name in self._crossing[start]}
        return {name: known[name] for name in self.outputs} | self._parts[start].run(inputs)


def _crossing(graph: ir.Graph, start: ir.Node) -> tuple[str, ...]:
    """Values defined before ``start`` (inputs included, weights not) that it or something behind it reads."""
    read: dict[str, None] = {}
    made: set[ir.Value] = set()
    for node in _from(graph, start):
        for value in _reads(node):
            if value not in made and not value.is_initializer() and value.graph is graph:
                read[value.name or ""] = None
        made.update(node.outputs)
    return tuple(read)


def _behind(graph: ir.Graph, start: ir.Node) -> list[str]:
    made = {value for node in _from(graph, start) for value in node.outputs}
    return [value.name or "" for value in graph.outputs if value in made]


def _from(graph: ir.Graph, start: ir.Node) -> list[ir.Node]:
    nodes = list(graph)
    return nodes[nodes.index(start) :]


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node and the nodes inside it read."""
    found = [value for value in node.inputs if value is not None]
    for subgraph in subgraphs_of(node):
        found += subgraph.outputs
        for inner in subgraph:
            found += _reads(inner)
    return found
