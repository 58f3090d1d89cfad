"""Quantization: scales and zero points of channels go with the channels."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import Dim, fix
from adapass.coupling.flow import Flow, Read, Refused
from adapass.coupling.relations import unify


def linear(flow: Flow, node: ir.Node) -> None:
    """QuantizeLinear and DequantizeLinear: one scale, or one for each entry of an axis."""
    dims = flow.of(node, 0)
    if node.attributes.get_int("block_size", 0):
        raise Refused(f"{node.op_type} has a scale for each block")
    axis = node.attributes.get_int("axis", 1)
    for index in (1, 2):
        scale = flow.maybe(node, index)
        if scale and len(scale) == 1 and scale[0].size != flow.ones:
            unify(scale[0], dims[axis])
    flow.give(node, dims)


def dynamic(flow: Flow, node: ir.Node) -> None:
    """The range includes zero, so what is absent may as well be zero."""
    dims = flow.of(node, 0)
    flow.reads.extend(Read(node, 0, axis) for axis in range(len(dims)))
    flow.give(node, dims, 0)
    flow.give(node, [], 1)
    flow.give(node, [], 2)


def qlinear_conv(flow: Flow, node: ir.Node) -> None:
    """x, its scale and zero point, w, its scale and zero point, those of the result, bias."""
    data, weight = flow.of(node, 0), flow.of(node, 3)
    if node.attributes.get_int("group", 1) != 1:
        raise Refused("a grouped QLinearConv")
    flow.contract(node, (0, 1), (3, 1))
    for dim in weight[2:]:
        fix(dim, "it is the size of a kernel")
    for dim in data[2:]:
        fix(dim, "it runs along space")
    flow.plays(node, 3, weight[0], "writes")
    for index in (4, 5, 8):
        _follow(flow, node, index, weight[0])
    space = [flow.fixed(size, "it runs along space") for size in flow.out(node)[2:]]
    flow.give(node, [data[0], weight[0], *space])


def _follow(flow: Flow, node: ir.Node, index: int, dim: Dim) -> None:
    vector = flow.maybe(node, index)
    if vector and vector[-1].size != flow.ones:
        unify(vector[-1], dim)
