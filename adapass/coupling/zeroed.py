"""The reference for removal: the same shapes as before, the removed units masked where they are read.

A sum over a dimension sees zeros in place of what was removed. Statistics of a normalisation run over
the entries that stay: the mean of the masked values times (all entries / entries that stay). Nothing
here uses the code that makes tensors smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.shapes import Shapes
from adapass.coupling.cut import Cut, plan_cut
from adapass.coupling.dims import find
from adapass.coupling.flow import Dims, Flow, Normed, Read
from adapass.coupling.inline import inline_functions
from adapass.coupling.walk import Walked
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.edit import insert_before, mark_roots, new_initializer
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import clone

Types = Mapping[str, ir.DataType]
ZERO_POINT = {"MatMulInteger": 2, "ConvInteger": 2, "QLinearConv": 2, "QLinearMatMul": 2}


def zeroed(model: ir.Model, kept: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy of ``model`` that computes what ``remove(model, kept)`` is to compute.

    Raises:
        UsageError: an unknown key or unit.

    """
    copy = clone(model)
    mark_roots(copy)
    inline_functions(copy)
    facts = FactCache(copy)
    flow, types = facts.get(Walked).flow, facts.get(Shapes).dtypes
    cut = plan_cut(flow, kept)
    jobs = [(read, _mask_of(flow, cut, read)) for read in flow.reads if _touches(flow, cut, read)]
    norms = [(normed, flow.of(normed.node, normed.index)) for normed in flow.normed]
    norms = [(normed, dims) for normed, dims in norms if any(cut.touches(dims[axis]) for axis in normed.axes)]
    for read, mask in jobs:
        _mask_input(read.node, read.index, mask, types)
    for normed, dims in norms:
        _mask_norm(normed, dims, cut, types)
    infer_shapes(copy)
    return copy


def _touches(flow: Flow, cut: Cut, read: Read) -> bool:
    return cut.touches(flow.of(read.node, read.index)[read.axis])


def _mask_of(flow: Flow, cut: Cut, read: Read) -> npt.NDArray[np.bool_]:
    """What stays along the axis, in a shape that broadcasts over the input."""
    dims = flow.of(read.node, read.index)
    return _along(cut, dims, read.axis)


def _along(cut: Cut, dims: Dims, axis: int) -> npt.NDArray[np.bool_]:
    return cut.mask(dims[axis]).reshape(-1, *(1 for _ in dims[axis + 1 :]))


def _mask_input(node: ir.Node, index: int, mask: npt.NDArray[np.bool_], types: Types) -> None:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} reads nothing at input {index}")
    build = _Build(node, _type_of(value, types))
    place = ZERO_POINT.get(node.op_type) if index == 0 else None
    zero = node.inputs[place] if place is not None and place < len(node.inputs) else None
    masked = build.op("Where", build.stored(mask), value, zero if zero is not None else build.number(0))
    node.replace_input_with(index, build.done(masked))


def _type_of(value: ir.Value, types: Types) -> ir.DataType:
    found = types.get(value.name or "") or value.dtype
    return found if found is not None else ir.DataType.FLOAT


@dataclass
class _Build:
    """Nodes in the making that go in front of ``node``."""

    node: ir.Node
    dtype: ir.DataType
    nodes: list[ir.Node] = field(default_factory=list[ir.Node])

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        listed = [ir.AttrInt64(name, number) for name, number in attributes.items()]
        self.nodes.append(ir.Node("", kind, inputs, listed, num_outputs=1, name=""))
        return self.nodes[-1].outputs[0]

    def stored(self, array: npt.NDArray[np.generic]) -> ir.Value:
        graph = self.node.graph
        if graph is None:
            raise ValueError(f"node '{self.node.op_type}' is in no graph")
        return new_initializer(graph, f"{self.node.outputs[0].name}_mask", array)

    def number(self, number: float) -> ir.Value:
        return self.stored(np.array(number, self.dtype.numpy()))

    def mean(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Mean over ``axes``, kept as 1, in either form of the operator."""
        opset = self.node.graph.opset_imports.get("", 18) if self.node.graph is not None else 18
        if opset >= 18:
            return self.op("ReduceMean", value, self.stored(np.array(axes, np.int64)), keepdims=1)
        node = ir.Node(
            "", "ReduceMean", [value], [ir.AttrInt64s("axes", tuple(axes))], num_outputs=1, name=""
        )
        self.nodes.append(node)
        return node.outputs[0]

    def done(self, value: ir.Value) -> ir.Value:
        insert_before(self.node, self.nodes)
        self.nodes = []
        return value


def _mask_norm(normed: Normed, dims: Dims, cut: Cut, types: Types) -> None:
    node = normed.node
    value = node.inputs[normed.index]
    if value is None:
        raise ValueError(f"{node.op_type} reads nothing at input {normed.index}")
    build = _Build(node, _type_of(value, types))
    masks = _along(cut, dims, normed.axes[0])
    for axis in normed.axes[1:]:
        masks = masks & _along(cut, dims, axis)
    stays = build.stored(masks)
    if node.op_type == "ReduceMean":
        ratio = _ratio(cut, dims, normed.axes)
        result = _mean_again(build, value, stays, ratio)
    elif node.op_type == "GroupNormalization":
        result = _group_norm(build, value, dims, cut, stays)
    elif node.op_type in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
        result = _normalised(build, value, stays, normed.axes, _ratio(cut, dims, normed.axes))
        result = _scaled(build, result, 0)
    elif node.op_type == "InstanceNormalization":
        result = _normalised(build, value, stays, normed.axes, _ratio(cut, dims, normed.axes))
        result = _scaled(build, result, len(dims) - 2)
    else:
        raise UsageError(f"no reference for removal below {node.domain}.{node.op_type}")
    node.outputs[0].replace_all_uses_with(build.done(result), replace_graph_outputs=False)


def _ratio(cut: Cut, dims: Dims, axes: Sequence[int]) -> float:
    ratio = 1.0
    for axis in axes:
        if cut.touches(dims[axis]):
            ratio *= find(dims[axis]).size[0] / cut.size(dims[axis])
    return ratio


def _mean_again(build: _Build, value: ir.Value, stays: ir.Value, ratio: float) -> ir.Value:
    """The same ReduceMean of the masked values, scaled to the entries that stay."""
    node = build.node
    masked = build.op("Where", stays, value, build.number(0))
    mean = ir.Node(
        "", "ReduceMean", [masked, *node.inputs[1:]], node.attributes.values(), num_outputs=1, name=""
    )
    build.nodes.append(mean)
    return build.op("Mul", mean.outputs[0], build.number(ratio))


def _normalised(
    build: _Build, value: ir.Value, stays: ir.Value, axes: Sequence[int], ratio: float
) -> ir.Value:
    zero, scale = build.number(0), build.number(ratio)
    centred = value
    if "RMS" not in build.node.op_type and "Simplified" not in build.node.op_type:
        mean = build.op("Mul", build.mean(build.op("Where", stays, value, zero), axes), scale)
        centred = build.op("Sub", value, mean)
    masked = build.op("Where", stays, centred, zero)
    variance = build.op("Mul", build.mean(build.op("Mul", masked, masked), axes), scale)
    return build.op("Div", centred, _deviation(build, variance))


def _deviation(build: _Build, variance: ir.Value) -> ir.Value:
    epsilon = build.number(build.node.attributes.get_float("epsilon", 1e-5))
    return build.op("Sqrt", build.op("Add", variance, epsilon))


def _scaled(build: _Build, value: ir.Value, trailing: int) -> ir.Value:
    """Times the scale plus the bias, which have ``trailing`` axes fewer than they need to broadcast."""
    for index, kind in ((1, "Mul"), (2, "Add")):
        factor = build.node.inputs[index] if index < len(build.node.inputs) else None
        if factor is None:
            continue
        if trailing:
            shape = build.stored(np.array([-1, *(1 for _ in range(trailing))], np.int64))
            factor = build.op("Reshape", factor, shape)
        value = build.op(kind, value, factor)
    return value


def _group_norm(build: _Build, value: ir.Value, dims: Dims, cut: Cut, stays: ir.Value) -> ir.Value:
    """Statistics of each group over the channels of it that stay, then spread over its channels."""
    groups = build.node.attributes.get_int("num_groups", 1)
    channels = dims[1].size[0]
    inner = channels // groups
    counts = cut.mask(dims[1]).reshape(groups, inner).sum(axis=1)
    ratios = (inner / np.maximum(counts, 1)).astype(build.dtype.numpy()).reshape(1, groups, 1)
    ratio = build.stored(ratios)
    zero = build.number(0)
    into = build.stored(np.array([0, groups, -1], np.int64))
    spread = build.stored(np.array([0, channels, *(1 for _ in dims[2:])], np.int64))
    repeat = build.stored(np.array([1, 1, inner], np.int64))

    def per_channel(of: ir.Value) -> ir.Value:
        mean = build.op("Mul", build.mean(build.op("Reshape", of, into), (2,)), ratio)
        return build.op("Reshape", build.op("Tile", mean, repeat), spread)

    mean = per_channel(build.op("Where", stays, value, zero))
    centred = build.op("Sub", value, mean)
    masked = build.op("Where", stays, centred, zero)
    variance = per_channel(build.op("Mul", masked, masked))
    result = build.op("Div", centred, _deviation(build, variance))
    for index, kind in ((1, "Mul"), (2, "Add")):
        factor = build.node.inputs[index]
        if factor is not None and factor.shape is not None and factor.shape[0] == groups != channels:
            row = build.op("Reshape", factor, build.stored(np.array([1, groups, 1], np.int64)))
            factor = build.op("Tile", row, repeat)
        shape = build.stored(np.array([1, channels, *(1 for _ in dims[2:])], np.int64))
        result = build.op(kind, result, build.op("Reshape", factor, shape))
    return result
