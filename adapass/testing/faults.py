"""Fault injection: a pass that works, then damages what it left behind. Verification must catch it.

Four kinds of damage, each of the sort a real bug causes: a wrong weight, a wrong axis, a dropped
node and a wrong type. Every fault picks, deterministically by ``pick``, a place that matters:
something an output depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Samples
from adapass.facts import FactCache
from adapass.rewrite import Pass, PassResult, with_methods


class Fault(StrEnum):
    WRONG_WEIGHT = "wrong-weight"
    WRONG_AXIS = "wrong-axis"
    DROPPED_NODE = "dropped-node"
    WRONG_DTYPE = "wrong-dtype"


def corrupt(model: ir.Model, fault: Fault, pick: int = 0) -> str | None:
    """Damage ``model`` in place; return what was done, or None where there is no place for it."""
    places = list(_FAULTS[fault](model))
    if not places:
        return None
    description, damage = places[pick % len(places)]
    damage()
    return description


def corrupting(inner: Pass, fault: Fault, pick: int = 0) -> Pass:
    """The same pass, except that it damages what it leaves behind (a budgeted pass: after its fit)."""
    kind = type(inner)

    def run(self: Pass, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        result = kind.run(self, model, facts, only)
        if result.changed:
            corrupt(model, fault, pick)
        return result

    def fit(self: BudgetedPass, model: ir.Model, data: Samples | None) -> None:
        assert issubclass(kind, BudgetedPass)
        kind.fit(self, model, data)
        corrupt(model, fault, pick)

    return with_methods(inner, fit=fit) if isinstance(inner, BudgetedPass) else with_methods(inner, run=run)


Damage = Callable[[], None]


def _live_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes of the main graph an output depends on, in order."""
    todo = [value.producer() for value in model.graph.outputs]
    live: set[ir.Node] = set()
    while todo:
        node = todo.pop()
        if node is None or node in live:
            continue
        live.add(node)
        todo.extend(value.producer() for value in node.inputs if value is not None)
    return [node for node in model.graph if node in live]


_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "LayerNormalization", "DequantizeLinear"})


def _wrong_weights(model: ir.Model) -> Iterator[tuple[str, Damage]]:
    for node in _live_nodes(model):
        if node.op_type not in _WEIGHTED:
            continue
        # A scale that conversion and back share cancels out: only what is converted counts.
        operands = node.inputs[:1] if node.op_type == "DequantizeLinear" else node.inputs
        for value in operands:
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            tensor = value.const_value
            if tensor.dtype not in {ir.DataType.FLOAT, ir.DataType.INT8} or not np.any(tensor.numpy()):
                continue
            yield f"negated weight {value.name}", _negate(value, tensor)


def _negate(value: ir.Value, tensor: ir.TensorProtocol) -> Damage:
    def damage() -> None:
        array = np.asarray(tensor.numpy())
        negated = -np.maximum(array, -127) if array.dtype == np.int8 else -array
        value.const_value = ir.tensor(negated, name=value.name)

    return damage


_AXIS_ATTRIBUTES = ("axis", "perm", "transB", "pads", "strides", "group")


def _wrong_axes(model: ir.Model) -> Iterator[tuple[str, Damage]]:
    for node in _live_nodes(model):
        for name in _AXIS_ATTRIBUTES:
            if (attribute := node.attributes.get(name)) is None or attribute.is_ref() or _one_scale(node):
                continue
            if attribute.type == ir.AttributeType.INT:
                wrong = ir.AttrInt64(name, _other_axis(name, attribute.as_int()))
            elif len(set(attribute.as_ints())) > 1:
                wrong = ir.AttrInt64s(name, tuple(reversed(attribute.as_ints())))
            else:
                continue
            yield f"{node.op_type} {node.outputs[0].name}: {name} changed", _set_attribute(node, wrong)
        if node.op_type == "MatMul":
            yield f"MatMul {node.outputs[0].name}: operands swapped", _swap_inputs(node)


def _one_scale(node: ir.Node) -> bool:
    """Whether the node converts with a single scale, so that its axis means nothing."""
    if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
        return False
    scale = node.inputs[1]
    return scale is not None and scale.shape is not None and scale.shape.rank() == 0


def _other_axis(name: str, value: int) -> int:
    return 1 - value if name == "transB" else (value + 1 if value >= 0 else value - 1)


def _set_attribute(node: ir.Node, attribute: ir.Attr) -> Damage:
    def damage() -> None:
        node.attributes[attribute.name] = attribute

    return damage


def _swap_inputs(node: ir.Node) -> Damage:
    def damage() -> None:
        first, second = node.inputs[0], node.inputs[1]
        node.replace_input_with(0, second)
        node.replace_input_with(1, first)

    return damage


_DROPPABLE = frozenset(
    {"Relu", "Gelu", "Add", "Mul", "Softmax", "LayerNormalization", "Tanh", "Sigmoid", "Transpose"}
)


def _dropped_nodes(model: ir.Model) -> Iterator[tuple[str, Damage]]:
    for node in _live_nodes(model):
        if node.domain == "" and node.op_type in _DROPPABLE and not node.outputs[0].is_graph_output():
            source = next((v for v in node.inputs if v is not None and not v.is_initializer()), None)
            if source is not None:
                yield f"dropped {node.op_type} {node.outputs[0].name}", _bypass(node, source)


def _bypass(node: ir.Node, source: ir.Value) -> Damage:
    def damage() -> None:
        node.outputs[0].replace_all_uses_with(source)

    return damage


def _wrong_dtypes(model: ir.Model) -> Iterator[tuple[str, Damage]]:
    for node in _live_nodes(model):
        for value in node.inputs:
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            if value.const_value.dtype == ir.DataType.FLOAT:
                yield f"weight {value.name} became float64", _retype(value, value.const_value)


def _retype(value: ir.Value, tensor: ir.TensorProtocol) -> Damage:
    def damage() -> None:
        value.const_value = ir.tensor(np.asarray(tensor.numpy()).astype(np.float64), name=value.name)
        value.type = ir.TensorType(ir.DataType.DOUBLE)

    return damage


_FAULTS: Mapping[Fault, Callable[[ir.Model], Iterator[tuple[str, Damage]]]] = {
    Fault.WRONG_WEIGHT: _wrong_weights,
    Fault.WRONG_AXIS: _wrong_axes,
    Fault.DROPPED_NODE: _dropped_nodes,
    Fault.WRONG_DTYPE: _wrong_dtypes,
}
