"""The second reference: the original with the weights of the removed units set to zero.

A unit that writes zero and whose readers multiply by zero takes no part. Constants that are divided by
or that a normalisation reads as a variance stay: nothing reads what comes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.coupling.groups import Group, Place
from adapass.graph.constants import constant_array
from adapass.graph.edit import nodes_everywhere
from adapass.graph.text import clone

LINEAR: Mapping[str, frozenset[int]] = {
    "Add": frozenset({0, 1}),
    "Mul": frozenset({0, 1}),
    "Sub": frozenset({0, 1}),
    "Conv": frozenset({1, 2}),
    "ConvTranspose": frozenset({1, 2}),
    "Gemm": frozenset({1, 2}),
    "MatMul": frozenset({0, 1}),
    "BatchNormalization": frozenset({1, 2}),
    "InstanceNormalization": frozenset({1, 2}),
}
"""Where a followed constant may be zero: operator, and the inputs it may be."""


def blanked(model: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy of ``model`` whose removed units have zero weights wherever they write, follow and are read."""
    copy = clone(model)
    values = _stored_values(copy)
    for group in groups:
        removed = sorted(set(range(group.units)) - set(kept[group.key]))
        for place in group.places:
            value = values.get(place.value)
            if value is not None and (place.role in {"writes", "reads"} or _may_vanish(value)):
                _blank(value, place, removed)
    return copy


def _stored_values(model: ir.Model) -> dict[str, ir.Value]:
    found: dict[str, ir.Value] = {}
    for graph in [model.graph, *model.graph.subgraphs()]:
        found |= dict(graph.initializers)
    for node in nodes_everywhere(model):
        if node.op_type == "Constant":
            found[node.outputs[0].name or ""] = node.outputs[0]
    return {
        name: value
        for name, value in found.items()
        if value.dtype is not None and value.dtype.is_floating_point()
    }


def _may_vanish(value: ir.Value) -> bool:
    return all(index in LINEAR.get(node.op_type, frozenset()) for node, index in value.uses())


def _blank(value: ir.Value, place: Place, removed: Sequence[int]) -> None:
    array = constant_array(value)
    if array is None:
        return
    array = np.array(array)
    positions = [position for unit in removed for position in place.positions[unit]]
    array[(*[slice(None)] * (place.axis % array.ndim), positions)] = 0
    tensor = ir.tensor(array, name=value.name)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
        return
    for name in list(producer.attributes):
        del producer.attributes[name]
    producer.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = tensor
