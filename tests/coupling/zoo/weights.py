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
from adapass.graph.edit import new_initializer, nodes_everywhere
from adapass.graph.text import clone

SEVERAL = 2
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
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
    "GroupNormalization": frozenset({1, 2}),
    "LayerNormalization": frozenset({1, 2}),
}
"""Where a followed constant may be zero: operator, and the inputs it may be."""


def blanked(model: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy of ``model`` whose removed units have zero weights wherever they write, follow and are read."""
    copy = clone(model)
    values = _stored_values(copy)
    for group in groups:
        removed = sorted(set(range(group.units)) - set(kept[group.key]))
        carried = frozenset(place.value for place in group.places if place.role == "carries")
        for place in group.places:
            for value in values.get(place.value, ()):
                if _belongs(value, place, carried, alone=len(values[place.value]) == 1):
                    _blank(value, place, removed)
    return copy


def _belongs(value: ir.Value, place: Place, carried: frozenset[str], *, alone: bool) -> bool:
    """Whether zeros may stand there, and whether this copy of a shared vector is the group's."""
    readers = [node for node, _ in value.uses()]
    if not alone and not any(output.name in carried for node in readers for output in node.outputs):
        return False
    return place.role in {"writes", "reads"} or _may_vanish(value)


def _stored_values(model: ir.Model) -> dict[str, list[ir.Value]]:
    """Stored tensors by name; vectors that several nodes share become one for each reader."""
    found: dict[str, list[ir.Value]] = {}
    for graph in [model.graph, *model.graph.subgraphs()]:
        found |= {name: [value] for name, value in graph.initializers.items()}
    for node in nodes_everywhere(model):
        if node.op_type == "Constant":
            found[node.outputs[0].name or ""] = [node.outputs[0]]
    for name, (value,) in found.items():
        array = constant_array(value)
        readers = list(value.uses())
        if array is None or len(readers) < SEVERAL or sum(size > 1 for size in array.shape) != 1:
            continue
        found[name] = [new_initializer(model.graph, f"{name}_of_one", array) for _ in readers]
        for own, (node, index) in zip(found[name], readers, strict=True):
            node.replace_input_with(index, own)
    return {name: values for name, values in found.items() if values[0].dtype in FLOATS}


def _may_vanish(value: ir.Value) -> bool:
    return all(index in LINEAR.get(node.op_type, frozenset()) for node, index in value.uses())


def _blank(value: ir.Value, place: Place, removed: Sequence[int]) -> None:
    array = constant_array(value)
    if array is None:
        return
    array = np.array(array)
    positions = [position for unit in removed for position in place.positions[unit]]
    index: tuple[slice | list[int], ...] = (*[slice(None)] * (place.axis % array.ndim), positions)
    array[index] = 0
    tensor = ir.tensor(array, name=value.name)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
        return
    for name in list(producer.attributes):
        del producer.attributes[name]
    producer.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = tensor
