"""Change a graph without breaking it: the only place that edits lists of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.constants import constant_array, constant_tensor
from adapass.graph.tensors import graphs_everywhere, subgraphs_of
from adapass.rewrite import Replacement

Array = npt.NDArray[np.generic]

__all__ = [
    "apply_replacement",
    "can_carry_output",
    "constant_array",
    "constant_tensor",
    "fresh_name",
    "insert_after",
    "insert_before",
    "mark_roots",
    "new_constant",
    "new_initializer",
    "nodes_everywhere",
    "remove_dead_nodes",
    "remove_if_dead",
    "remove_node",
    "replace_subgraph",
    "replace_uses",
]

_ROOT = "adapass.root"
"""Where a graph remembers the top graph (main or function) around it; not serialised."""
_IS_FUNCTION = "adapass.is_function"


def nodes_everywhere(model: ir.Model) -> list[ir.Node]:
    """A snapshot of all nodes in execution order: main graph, subgraphs (before their node), functions."""
    mark_roots(model)
    found: list[ir.Node] = []
    for top in _tops(model):
        _collect(top, found)
    return found


def mark_roots(model: ir.Model) -> None:
    """Let every graph know which top graph it lies in; ``new_initializer`` and ``fresh_name`` need it."""
    functions = frozenset(id(function.graph) for function in model.functions.values())
    for top in _tops(model):
        for graph in (top, *top.subgraphs()):
            graph.meta[_ROOT] = top
            graph.meta[_IS_FUNCTION] = id(graph) in functions


def apply_replacement(root: ir.Node, replacement: Replacement) -> None:
    """Put ``replacement`` in the place of ``root``; remove ``root`` and what only it needed.

    New values take over name, type and shape of the outputs they replace; every other new value
    that has no name yet gets a fresh one.
    """
    replace_subgraph(
        root,
        old=root.outputs,
        new=replacement.outputs,
        nodes=replacement.nodes,
        initializers=replacement.initializers,
    )
    remove_if_dead(root)


def replace_subgraph(
    root: ir.Node,
    *,
    old: Sequence[ir.Value],
    new: Sequence[ir.Value],
    nodes: Sequence[ir.Node],
    initializers: Sequence[ir.Value] = (),
) -> None:
    """Insert ``nodes`` in front of ``root`` and let readers of ``old`` read ``new``; removes nothing."""
    graph = _graph_of(root)
    for value in initializers:
        _register(graph, value, before=root)
    created = {value for node in nodes for value in node.outputs}
    insert_before(root, nodes)
    for before, after in zip(old, new, strict=True):
        if before is after:
            continue
        if after in created:
            _take_identity(before, after)
        replace_uses(before, after)


def insert_before(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Insert ``nodes`` in front of ``node``; unnamed outputs get fresh names."""
    graph = _graph_of(node)
    _name_outputs(graph, nodes, base=node.outputs[0].name or "value")
    graph.insert_before(node, nodes)


def insert_after(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Insert ``nodes`` behind ``node``; unnamed outputs get fresh names."""
    graph = _graph_of(node)
    _name_outputs(graph, nodes, base=node.outputs[0].name or "value")
    graph.insert_after(node, nodes)


def remove_if_dead(node: ir.Node) -> None:
    """Remove ``node`` when nobody reads it, then what only it read, and so on upwards."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current.graph is None or any(v.uses() or v.is_graph_output() for v in current.outputs):
            continue
        pending += [
            p for value in current.inputs if value is not None and (p := value.producer()) is not None
        ]
        remove_node(current)


def remove_node(node: ir.Node) -> None:
    """Remove a node nobody reads; what its subgraphs read from outside is no longer read."""
    for subgraph in subgraphs_of(node):
        for inner in list(ir.traversal.RecursiveGraphIterator(subgraph)):
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
    _graph_of(node).remove(node, safe=True)


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old`` read ``new``. A graph output keeps its name.

    Where ``new`` cannot carry the name of an output (it is an input, a constant, an output already,
    or belongs to another graph), an ``Identity`` carries it.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    if can_carry_output(old, new):
        name = old.name
        old.name = fresh_name(_owner(old), f"{name}_replaced")
        new.name = name
        if old.type is not None:
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        return
    _carry_by_identity(old, new)


def can_carry_output(old: ir.Value, new: ir.Value) -> bool:
    """Whether ``new`` can become the graph output ``old`` under its name."""
    if new.graph is not old.graph or new.producer() is None:
        return False
    return not new.is_graph_output()


def remove_dead_nodes(model: ir.Model) -> int:
    """Remove nodes nobody reads, then initializers nobody reads; inputs and outputs stay."""
    removed = 0
    for top in _tops(model):
        removed += _remove_dead(top)
    for graph in graphs_everywhere(model):
        removed += _remove_dead_initializers(graph)
    return removed


def new_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Store ``array`` in ``graph`` under a fresh name. The graph of a function cannot store arrays."""
    value = new_constant(fresh_name(graph, name), array)
    graph.register_initializer(value)
    return value


def new_constant(name: str, array: Array) -> ir.Value:
    """An initializer for ``Replacement.initializers``, not stored yet; its name is made unique then."""
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
    return ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def fresh_name(graph: ir.Graph, base: str) -> str:
    """``base``, or ``base`` with a number, that no value around or below ``graph`` carries."""
    taken = _names(graph)
    if base not in taken:
        return base
    number = 1
    while f"{base}_{number}" in taken:
        number += 1
    return f"{base}_{number}"


def _tops(model: ir.Model) -> list[ir.Graph]:
    return [model.graph, *(function.graph for function in model.functions.values())]


def _collect(graph: ir.Graph, found: list[ir.Node]) -> None:
    for node in graph:
        for subgraph in subgraphs_of(node):
            _collect(subgraph, found)
        found.append(node)


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.op_type}' is in no graph")
    return graph


def _owner(value: ir.Value) -> ir.Graph:
    graph = value.graph
    if graph is None:
        raise ValueError(f"value '{value.name}' is in no graph")
    return graph


def _names(graph: ir.Graph) -> set[str]:
    top = _top_of(graph)
    names: set[str] = set()
    for each in (top, *top.subgraphs()):
        names.update(value.name or "" for value in each.inputs)
        names.update(each.initializers)
        names.update(value.name or "" for node in each for value in node.outputs)
    return names


def _top_of(graph: ir.Graph) -> ir.Graph:
    top: object = cast("dict[str, object]", graph.meta).get(_ROOT)
    # The mark of a graph that came from a clone points into the model it was cloned from.
    marked = isinstance(top, ir.Graph) and any(each is graph for each in (top, *top.subgraphs()))
    return top if isinstance(top, ir.Graph) and marked else graph


def _name_outputs(graph: ir.Graph, nodes: Iterable[ir.Node], *, base: str) -> None:
    """Fresh names for values; none for nodes, which the graph would otherwise number by its own count."""
    taken: set[str] | None = None
    for node in nodes:
        node.name = node.name or ""
        for value in node.outputs:
            if value.name is not None:
                continue
            taken = _names(graph) if taken is None else taken
            number = 1
            while f"{base}_{number}" in taken:
                number += 1
            value.name = f"{base}_{number}"
            taken.add(value.name)


def _register(graph: ir.Graph, value: ir.Value, *, before: ir.Node) -> None:
    if value.is_initializer() or value.const_value is None:
        return
    value.name = fresh_name(graph, value.name or "constant")
    if not cast("dict[str, object]", graph.meta).get(_IS_FUNCTION):
        graph.register_initializer(value)
        return
    stored = [ir.AttrTensor("value", value.const_value)]
    constant = ir.Node("", "Constant", [], stored, num_outputs=1, name="")
    constant.outputs[0].name = value.name
    tensor, value.const_value = value.const_value, None
    constant.outputs[0].shape, constant.outputs[0].type = value.shape, ir.TensorType(tensor.dtype)
    graph.insert_before(before, constant)
    value.replace_all_uses_with(constant.outputs[0])


def _take_identity(old: ir.Value, new: ir.Value) -> None:
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape
    if old.is_graph_output() or new.is_graph_output():
        return
    name = old.name
    old.name = None
    new.name = name


def _carry_by_identity(old: ir.Value, new: ir.Value) -> None:
    graph = _owner(old)
    carrier = ir.Node("", "Identity", [new], num_outputs=1, name="")
    result = carrier.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    old.name = fresh_name(graph, f"{old.name}_replaced")
    graph.append(carrier)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = result
    old.replace_all_uses_with(new)


def _remove_dead(graph: ir.Graph) -> int:
    removed = 0
    outputs = frozenset(graph.outputs)
    for node in reversed(graph):
        if any(value in outputs or value.uses() for value in node.outputs):
            removed += sum(_remove_dead(subgraph) for subgraph in subgraphs_of(node))
            continue
        remove_node(node)
        removed += 1
    return removed


def _remove_dead_initializers(graph: ir.Graph) -> int:
    kept = frozenset([*graph.inputs, *graph.outputs])
    dead = [name for name, value in graph.initializers.items() if not value.uses() and value not in kept]
    for name in dead:
        del graph.initializers[name]
    return len(dead)
