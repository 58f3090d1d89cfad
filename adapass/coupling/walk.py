"""Walk over a model once and let the rule of every operator say what belongs together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.dataflow import values_read
from adapass.analyses.shapes import Shapes
from adapass.coupling.balance import settle_groups
from adapass.coupling.dims import Dim, find, fix, leaf, leaves, reason_of
from adapass.coupling.flow import Flow, Refused
from adapass.coupling.rules.table import rule_of
from adapass.coupling.sizes import known_sizes
from adapass.facts import Fact, FactCache
from adapass.graph.constants import constant_tensor
from adapass.graph.tensors import subgraphs_of

DYNAMIC = "its size differs from run to run"


@dataclass(frozen=True, slots=True)
class Walked(Fact):
    """A model with the dimensions of all its values. Nothing in it refers to more than one model."""

    flow: Flow

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        return cls(walk(model, facts.get(Shapes)))


def walk(model: ir.Model, shapes: Shapes) -> Flow:
    points, sizes = known_sizes(model, shapes)
    flow = Flow((1,) * points, sizes, opset=model.graph.opset_imports.get("", 13))
    for value in model.graph.inputs:
        reason = f"it is an axis of the model's input '{value.name}'"
        if value in flow.sizes:
            flow.dims[value] = tuple(leaf(size, reason) for size in flow.sizes[value])
    for node in model.graph:
        _step(flow, node)
    settle_groups(flow)
    for value in model.graph.outputs:
        _fix_value(flow, value, f"it is an axis of the model's output '{value.name}'")
    _fix_dynamic(flow)
    _fix_unwritable(flow)
    return flow


def _step(flow: Flow, node: ir.Node) -> None:
    if (node.op_type == "Constant" and node.domain == "") or node in flow.done:
        return
    _note_sources(flow, node)
    try:
        _follow(flow, node)
    except Refused as refusal:
        _refuse(flow, node, str(refusal))


def _follow(flow: Flow, node: ir.Node) -> None:
    rule = rule_of(node)
    if rule is None:
        raise Refused(_unknown(node))
    rule(flow, node)
    _check(flow, node)


def _unknown(node: ir.Node) -> str:
    if subgraphs_of(node):
        return f"the body of a {node.op_type} reads or returns it"
    if node.domain not in ("", "ai.onnx"):
        return f"the operator {node.domain}.{node.op_type} is not followed"
    return f"the operator {node.op_type} is not followed"


def _refuse(flow: Flow, node: ir.Node, reason: str) -> None:
    flow.refuse(node, reason)
    for value in values_read(node):
        _fix_value(flow, value, reason)


def _check(flow: Flow, node: ir.Node) -> None:
    """A rule that is wrong about a shape must not become a wrong rewrite."""
    if node in flow.done:
        return
    for value in node.outputs:
        if value not in flow.sizes or not value.name:
            continue
        dims = flow.dims.get(value)
        if dims is None or tuple(dim.size for dim in dims) != flow.sizes[value]:
            raise Refused(f"the shape of '{value.name}' is not what {node.op_type} is expected to return")


def _note_sources(flow: Flow, node: ir.Node) -> None:
    """Values computed from stored tensors alone remember which; they are as good as stored."""
    read = values_read(node)
    if subgraphs_of(node) or not all(_is_stored(flow, value) for value in read):
        return
    # Scales and zero points follow the tensor they belong to.
    main = read[:1] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else read
    found = [source for value in main for source in _sources(flow, value)]
    for value in node.outputs:
        own = (value,) if node.op_type == "ConstantOfShape" else ()
        flow.sources[value] = tuple(dict.fromkeys([*own, *found]))


def _is_stored(flow: Flow, value: ir.Value) -> bool:
    return constant_tensor(value) is not None or value in flow.sources


def _sources(flow: Flow, value: ir.Value) -> Iterable[ir.Value]:
    return (value,) if constant_tensor(value) is not None else flow.sources[value]


def _fix_value(flow: Flow, value: ir.Value, reason: str) -> None:
    tensor = constant_tensor(value)
    if tensor is not None:
        flow.dims.setdefault(value, tuple(leaf(flow.constant(size)) for size in tensor.shape.numpy()))
    for dim in flow.dims.get(value, ()):
        fix(dim, reason)


def _fix_dynamic(flow: Flow) -> None:
    for dims in (*flow.dims.values(), *flow.own.values()):
        for dim in dims:
            for each in leaves(dim):
                if len(set(each.size)) > 1:
                    fix(each, DYNAMIC)


def _is_mixed(dim: Dim) -> bool:
    """A dynamic size with something in it that could be cut: no number can be written for it."""
    return len(set(find(dim).size)) > 1 and reason_of(dim) is None


def _fix_unwritable(flow: Flow) -> None:
    """Sizes that would change and that nobody could write down again."""
    for counted in flow.counted:
        for dim in counted.dims:
            if _is_mixed(dim):
                fix(dim, "its size is computed at run time together with a dynamic one")
    for sized in flow.sized:
        mixed = [dim for element in sized.elements for dim in element or () if _is_mixed(dim)]
        if len(mixed) > 1 or (mixed and not sized.is_shape):
            for dim in mixed:
                fix(dim, "its size is computed at run time together with a dynamic one")
