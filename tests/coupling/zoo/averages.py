"""Normalisations of a blanked model counted over what stays: zeros add nothing to a sum, only to its count.

In place, in the original with blanked weights: every mean over a dimension that has ``n`` entries there and
``k`` in the cut model is taken over ``k``, and what was removed is zero in it (a bias along another axis may
have written there). With that the blanked model computes what the cut one should, also where a
normalisation runs over a cut dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from adapass.coupling.groups import Group
from adapass.graph.constants import constant_array
from adapass.graph.edit import insert_before, new_initializer, nodes_everywhere, replace_uses

Shape = Sequence[object]


def recount(
    blanked: ir.Model, cut: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> int:
    """Correct ``blanked``; the number of means that were."""
    gone = _gone(groups, kept)
    after = {value.name: value for node in nodes_everywhere(cut) for value in node.outputs}
    after |= {value.name: value for value in cut.graph.inputs}
    # Found first and corrected then: a correction renames what others read.
    found = [job for node in nodes_everywhere(blanked) if (job := _counts(node, after)) is not None]
    for node, axes, counts in found:
        _mask(blanked.graph, node, gone)
        RULES[node.op_type](blanked.graph, node, axes, counts)
    return len(found)


def _gone(
    groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> dict[str, list[tuple[int, list[int]]]]:
    """For every value the axes and positions of what is removed."""
    gone: dict[str, list[tuple[int, list[int]]]] = {}
    for group in groups:
        removed = sorted(set(range(group.units)) - set(kept[group.key]))
        for place in group.places:
            positions = [position for unit in removed for position in place.positions[unit]]
            gone.setdefault(place.value, []).append((place.axis, positions))
    return gone


def _mask(graph: ir.Graph, node: ir.Node, gone: Mapping[str, list[tuple[int, list[int]]]]) -> None:
    """Zero the removed entries of what ``node`` averages."""
    value = node.inputs[0]
    if value is None or value.shape is None or value.name is None:
        return
    for axis, positions in gone.get(value.name, ()):
        size, rank = value.shape[axis], value.shape.rank()
        if not isinstance(size, int):
            raise TypeError(f"axis {axis} of '{value.name}' has no size: {value.shape}")
        array = np.ones(size, np.float32)
        array[positions] = 0
        stored = new_initializer(graph, "recount_mask", array.reshape(-1, *[1] * (rank - 1 - axis % rank)))
        masked = ir.Node("", "Mul", [node.inputs[0], stored], outputs=[_like(value)])
        insert_before(node, [masked])
        node.replace_input_with(0, masked.outputs[0])


def _counts(
    node: ir.Node, after: Mapping[str | None, ir.Value]
) -> tuple[ir.Node, Sequence[int], tuple[int, int]] | None:
    """A mean whose count changes: over which axes, and how many entries before and after."""
    source = node.inputs[0] if node.inputs and node.op_type in RULES else None
    now = after.get(source.name) if source is not None else None
    if source is None or now is None or source.shape is None or now.shape is None:
        return None
    axes = [axis % source.shape.rank() for axis in _axes(node, source.shape.rank())]
    before, left = (
        [size for axis in axes if isinstance(size := shape[axis], int)] for shape in (source.shape, now.shape)
    )
    if before == left:
        return None
    if len(before) != len(left):
        raise ValueError(f"'{source.name}' was {source.shape} and is {now.shape}")
    return node, axes, (prod(before), prod(left))


def _axes(node: ir.Node, rank: int) -> Sequence[int]:
    if node.op_type == "LayerNormalization":
        return range(node.attributes.get_int("axis", -1) % rank, rank)
    if node.op_type == "InstanceNormalization":
        return range(2, rank)
    listed = node.attributes.get_ints("axes", None)
    if listed is None and len(node.inputs) > 1 and (array := constant_array(node.inputs[1])) is not None:
        listed = [int(axis) for axis in array]
    return range(rank) if listed is None else listed


def _mean(graph: ir.Graph, node: ir.Node, axes: Sequence[int], counts: tuple[int, int]) -> None:
    """``ReduceMean(x)`` -> ``ReduceMean(x) * n / k``."""
    del axes
    factor = _scalar(graph, counts[0] / counts[1])
    again = ir.Node(
        "", "ReduceMean", node.inputs, list(node.attributes.values()), outputs=[_like(node.outputs[0])]
    )
    scaled = ir.Node("", "Mul", [again.outputs[0], factor], outputs=[_like(node.outputs[0])])
    _replace(node, [again, scaled])


def _normalize(graph: ir.Graph, node: ir.Node, axes: Sequence[int], counts: tuple[int, int]) -> None:
    """``(x - m) / sqrt(v + e) * scale + bias`` with ``m = sum(x) / k``, ``v = sum(x * x) / k - m * m``."""
    x, scale, bias = [*node.inputs, None][:3]
    assert x is not None
    axes_value = new_initializer(graph, "recount_axes", np.array(axes, np.int64))
    share = _scalar(graph, 1 / counts[1])
    epsilon = _scalar(graph, node.attributes.get_float("epsilon", 1e-5))
    nodes: list[ir.Node] = []

    def op(kind: str, *inputs: ir.Value | None) -> ir.Value:
        nodes.append(ir.Node("", kind, list(inputs), outputs=[ir.Value(name=None, type=x.type)]))
        return nodes[-1].outputs[0]

    mean = op("Mul", op("ReduceSum", x, axes_value), share)
    square = op("Mul", op("ReduceSum", op("Mul", x, x), axes_value), share)
    spread = op("Sqrt", op("Add", op("Sub", square, op("Mul", mean, mean)), epsilon))
    result = op("Div", op("Sub", x, mean), spread)
    if scale is not None:
        result = op("Mul", result, _beside(graph, node, scale))
    if bias is not None:
        op("Add", result, _beside(graph, node, bias))
    nodes[-1].outputs[0].shape = node.outputs[0].shape
    _replace(node, nodes)


def _beside(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """Scale and bias of an instance normalisation lie along axis 1."""
    array = constant_array(value)
    if node.op_type != "InstanceNormalization" or array is None or node.inputs[0] is None:
        return value
    rank = 3 if node.inputs[0].shape is None else node.inputs[0].shape.rank()
    return new_initializer(graph, "recount_scale", array.reshape(1, -1, *[1] * (rank - 2)))


def _scalar(graph: ir.Graph, number: float) -> ir.Value:
    return new_initializer(graph, "recount_number", np.array(number, np.float32))


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=None, type=value.type, shape=value.shape)


def _replace(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    insert_before(node, nodes)
    replace_uses(node.outputs[0], nodes[-1].outputs[0])


RULES: Mapping[str, Callable[[ir.Graph, ir.Node, Sequence[int], tuple[int, int]], None]] = {
    "ReduceMean": _mean,
    "LayerNormalization": _normalize,
    "InstanceNormalization": _normalize,
}
