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
from adapass.ops import DOMAIN, EXIT_SELECT, TOKEN_OPERATORS, is_exit_select, read_exits


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
    """Copy ``model`` with its functions inlined and constants as initializers.

    With the selects the token operators stay: each row of what they compute depends on that row of their
    inputs alone, which their bodies do not show.

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
    InlinePass(_is_plain if keep_selects else None)(copy)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    infer_shapes(copy)
    return copy


def standard_only(model: ir.Model) -> ir.Model:
    """Inline what functions are left, drop them and the opset imports nothing uses any more, in place."""
    if InlinePass()(model).modified:
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    model.functions.clear()
    RemoveUnusedOpsetsPass()(model)
    return model


def find_parts(model: ir.Model) -> Parts:
    """Cut a prepared model at its exits.

    What crosses an exit in 8 bits stays in 8 bits: a later part restores it for itself, in place, so that
    runtimes see the whole pattern they fuse there. (Without, the first convolution behind every exit of an
    8-bit network ran in float.)

    Raises:
        ModelError: the exits are not in the form of ``adapass.ops``.

    """
    exits = tuple(
        Taken(found.stop, tuple(_input(node, 1) for node in found.selects)) for found in read_exits(model)
    )
    outputs = tuple(value for value in model.graph.outputs if is_exit_select(value.producer()))
    final = tuple(_last_rest(value) for value in outputs)
    nodes = _cut(model.graph, exits, final)
    nodes = _restore_behind_exits(model.graph, nodes)
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


def _is_plain(function: ir.Function) -> bool:
    return function.domain != DOMAIN or function.name not in TOKEN_OPERATORS | {EXIT_SELECT}


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


def _restore_behind_exits(
    graph: ir.Graph, parts: Sequence[Sequence[ir.Node]]
) -> tuple[tuple[ir.Node, ...], ...]:
    """Let each part make floats itself of the 8-bit values it takes from earlier parts."""
    grown = [list(part) for part in parts]
    home = {node: index for index, part in enumerate(parts) for node in part}
    for index, part in enumerate(parts):
        taken = (value for node in part for value in reads(node))
        for value in dict.fromkeys(taken):
            maker = value.producer()
            if maker is None or home.get(maker, index) == index or not _restores(maker):
                continue
            readers = [node for node in part if value in reads(node)]
            before, own = _again(graph, maker, readers, index)
            small = maker.inputs[0]
            assert small is not None
            for node in before:
                source = small.producer()
                grown[0 if source is None else home[source]].append(node)
            grown[index][:0] = own
            for node in readers:
                redirect(node, value, own[-1].outputs[0])
    return tuple(tuple(part) for part in grown)


def _restores(node: ir.Node) -> bool:
    """Whether it makes floats of an activation in 8 bits, at a stored scale."""
    small, *scales = (value for value in node.inputs if value is not None)
    fixed = all(value.is_initializer() for value in scales)
    return node.op_type == "DequantizeLinear" and not small.is_initializer() and fixed


def _again(
    graph: ir.Graph, maker: ir.Node, readers: Sequence[ir.Node], index: int
) -> tuple[list[ir.Node], list[ir.Node]]:
    """Nodes to add before the exit and behind it; the last one makes the floats.

    Images cross channels last, as 8-bit convolutions work: runtimes cancel both transpositions against
    their own. Without, ONNX Runtime kept two around every residual addition behind the exit.
    """
    small = maker.inputs[0]
    assert small is not None
    name = f"{maker.outputs[0].name}_behind_exit_{index - 1}"
    before: list[ir.Node] = []
    own: list[ir.Node] = []
    if small.shape is not None and len(small.shape) == 4 and any(n.op_type == "Conv" for n in readers):
        before.append(_transposed(graph, small, maker, (0, 2, 3, 1), f"{name}_channels_last"))
        own.append(_transposed(graph, before[0].outputs[0], maker, (0, 3, 1, 2), f"{name}_8bit"))
        small = own[0].outputs[0]
    attributes = tuple(maker.attributes.values())
    inputs = [small, *maker.inputs[1:]]
    own.append(ir.Node(maker.domain, maker.op_type, inputs, attributes, version=maker.version, name=name))
    (old,), (new,) = maker.outputs, own[-1].outputs
    new.name, new.type, new.shape = name, old.type, old.shape
    graph.insert_after(own[0] if len(own) > 1 else maker, own[-1])
    return before, own


def _transposed(
    graph: ir.Graph, value: ir.Value, after: ir.Node, order: tuple[int, ...], name: str
) -> ir.Node:
    node = ir.node("Transpose", [value], {"perm": order}, name=name)
    shape = value.shape
    assert shape is not None
    result = node.outputs[0]
    result.name, result.type, result.shape = name, value.type, ir.Shape([shape[axis] for axis in order])
    graph.insert_after(value.producer() or after, node)
    return node


def _claim(wanted: Iterable[ir.Value], index: int, part_of: dict[ir.Node, int]) -> None:
    stack = list(wanted)
    while stack:
        node = stack.pop().producer()
        if node is None or node in part_of:
            continue
        part_of[node] = index
        stack.extend(reads(node))
