"""Stored elements: how many there are, how many lie in groups, how many a cut promises to leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.coupling.groups import Group, Place
from adapass.graph.constants import constant_array

Shape = tuple[int, ...]


def stored_shapes(model: ir.Model) -> dict[str, Shape]:
    """Floating-point initializers and Constants that something reads, by name."""
    return {name: shape for name, shape in _stored(model)}  # noqa: C416  # pairs, not a mapping


def _stored(model: ir.Model) -> Iterable[tuple[str, Shape]]:
    for graph in [model.graph, *model.graph.subgraphs()]:
        values = [*graph.initializers.values()]
        values += [node.outputs[0] for node in graph if node.op_type == "Constant"]
        for value in values:
            if value.uses() and value.dtype is not None and value.dtype.is_floating_point():
                array = constant_array(value)
                yield value.name or "", () if array is None else array.shape


def float_elements(shapes: Iterable[Shape]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)


def wide_elements(shapes: Iterable[Shape]) -> int:
    """Elements of tensors with two axes at least: vectors may be copied, for readers that differ."""
    return float_elements(shape for shape in shapes if sum(size > 1 for size in shape) > 1)


def places_of(groups: Iterable[Group], shapes: Mapping[str, Shape]) -> Iterable[tuple[Group, Place]]:
    """Places in stored floating-point tensors."""
    for group in groups:
        for place in group.places:
            if place.value in shapes:
                yield group, place


def covered(model: ir.Model, groups: Sequence[Group]) -> int:
    """Stored elements that the removal of some unit takes away."""
    shapes = stored_shapes(model)
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for _, place in places_of(groups, shapes):
        mask = masks.setdefault(place.value, np.zeros(shapes[place.value], np.bool_))
        before = [slice(None)] * mask.ndim
        for unit in place.positions:
            index: tuple[slice | list[int], ...] = (*before[: place.axis], list(unit))
            mask[index] = True
    return sum(int(mask.sum()) for mask in masks.values())


def promised_shapes(
    model: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> dict[str, Shape]:
    """The shape of every stored tensor after the cut, as the places say."""
    shapes = stored_shapes(model)
    gone: dict[tuple[str, int], set[int]] = {}
    for group, place in places_of(groups, shapes):
        if group.key not in kept:
            continue
        removed = set(range(group.units)) - set(kept[group.key])
        at = gone.setdefault((place.value, place.axis % len(shapes[place.value])), set())
        at.update(position for unit in removed for position in place.positions[unit])
    return {
        name: tuple(size - len(gone.get((name, axis), ())) for axis, size in enumerate(shape))
        for name, shape in shapes.items()
    }
