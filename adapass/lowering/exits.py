"""Cut a model with exits (the form described in ``adapass.ops``) into the parts between its exits.

Part ``k`` is what exit ``k`` needs and no earlier exit needed; the last part is what is left. Outputs
that no exit selects are always computed, so what they need belongs to part 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedOpsetsPass,
)

from adapass.errors import ModelError
from adapass.graph.shapes import infer_shapes
from adapass.graph.tensors import subgraphs_of
from adapass.ops import DOMAIN, EXIT_SELECT, is_exit_select, read_exits


@dataclass(frozen=True, slots=True)
class Taken:
    """One exit: who stops (bool, one row a sample), and what each selected output then is."""

    stop: ir.Value
    taken: tuple[ir.Value, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """A model cut at its exits, first one first. ``nodes`` has one entry more than ``exits``."""

    outputs: tuple[ir.Value, ...]
    """The graph outputs that exits select, in the order of the graph."""
    exits: tuple[Taken, ...]
    final: tuple[ir.Value, ...]
    """What the outputs are for samples that take no exit."""
    nodes: tuple[tuple[ir.Node, ...], ...]
    """Nodes in execution order, without the selects; nodes nothing needs are left out."""
    inputs: Mapping[ir.Node, tuple[ir.Value | None, ...]]
    """What each node reads in the model as it was, while lowering redirects it."""


def has_exits(model: ir.Model) -> bool:
    return any(is_exit_select(value.producer()) for value in model.graph.outputs)


def prepare(model: ir.Model, *, keep_selects: bool) -> ir.Model:
    """Copy ``model`` with its functions inlined (the selects kept or not) and constants as initializers.

    Raises:
        ModelError: a function is written for another operator set than the model.

    """
    copy = model.clone()
    opset = copy.opset_imports.get("", 0)
    for function in copy.functions.values():
        if function.opset_imports.get("", opset) != opset:
            raise ModelError(
                f"function {function.domain}.{function.name} is written for operator set"
                f" {function.opset_imports['']}, the model for {opset}; convert one of them"
            )
    InlinePass(_is_no_select if keep_selects else None)(copy)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    infer_shapes(copy)
    return copy


def standard_only(model: ir.Model) -> ir.Model:
    """Drop the functions (all are inlined) and the opset imports that nothing uses any more, in place."""
    model.functions.clear()
    RemoveUnusedOpsetsPass()(model)
    return model


def find_parts(model: ir.Model) -> Parts:
    """Cut a prepared model at its exits.

    Raises:
        ModelError: the exits are not in the form of ``adapass.ops``.

    """
    exits = tuple(
        Taken(found.stop, tuple(_input(node, 1) for node in found.selects)) for found in read_exits(model)
    )
    outputs = tuple(value for value in model.graph.outputs if is_exit_select(value.producer()))
    final = tuple(_last_rest(value) for value in outputs)
    nodes = _cut(model.graph, exits, final)
    inputs = {node: tuple(node.inputs) for part in nodes for node in part}
    return Parts(outputs, exits, final, nodes, MappingProxyType(inputs))


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Everything ``node`` reads from outside itself, captures of its subgraphs included."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs_of(node):
        inside = {value for inner in graph.all_nodes() for value in inner.outputs}
        for inner_graph in (graph, *graph.subgraphs()):
            inside.update((*inner_graph.inputs, *inner_graph.initializers.values()))
        for inner in graph.all_nodes():
            yield from (value for value in inner.inputs if value is not None and value not in inside)
        yield from (value for value in graph.outputs if value not in inside)


def redirect(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Make ``node``, its subgraphs included, read ``new`` instead of ``old``."""
    everyone = [node, *(inner for graph in subgraphs_of(node) for inner in graph.all_nodes())]
    for reader in everyone:
        for index, value in enumerate(reader.inputs):
            if value is old:
                reader.replace_input_with(index, new)


def _is_no_select(function: ir.Function) -> bool:
    return (function.domain, function.name) != (DOMAIN, EXIT_SELECT)


def _input(select: ir.Node, index: int) -> ir.Value:
    value = select.inputs[index] if index < len(select.inputs) else None
    if value is None:
        raise ModelError(f"ExitSelect '{select.name}' has no input {index}; it needs stop, taken and rest")
    return value


def _last_rest(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and is_exit_select(node):
        value = _input(node, 2)
    return value


def _cut(
    graph: ir.Graph, exits: Sequence[Taken], final: Sequence[ir.Value]
) -> tuple[tuple[ir.Node, ...], ...]:
    roots = [[exit_.stop, *exit_.taken] for exit_ in exits] + [list(final)]
    roots[0] += [value for value in graph.outputs if not is_exit_select(value.producer())]
    part_of: dict[ir.Node, int] = {}
    for index, wanted in enumerate(roots):
        _claim(wanted, index, part_of)
    for node in part_of:
        if is_exit_select(node):
            raise ModelError(
                f"'{node.outputs[0].name}' is selected by an exit and read inside the model;"
                " exits may only select what becomes an output"
            )
    return tuple(tuple(n for n in graph if part_of.get(n) == index) for index in range(len(roots)))


def _claim(wanted: Iterable[ir.Value], index: int, part_of: dict[ir.Node, int]) -> None:
    stack = list(wanted)
    while stack:
        node = stack.pop().producer()
        if node is None or node in part_of:
            continue
        part_of[node] = index
        stack.extend(reads(node))
