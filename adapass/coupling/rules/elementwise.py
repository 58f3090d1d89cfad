"""Operators that work entry by entry: axes stay in their places, broadcast ones become the same."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import find, mark, reason_of
from adapass.coupling.flow import SEVERAL, Flow

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "MatMulInteger", "ConvInteger"})
STEPS = frozenset({"Cast", "Identity", "Mul"})
"""What may lie between a product and its bias: nothing that moves an axis."""


def same(flow: Flow, node: ir.Node) -> None:
    """Every output has the axes of the first input."""
    dims = flow.of(node, 0)
    for index in range(len(node.outputs)):
        flow.give(node, dims, index)


def broadcast(flow: Flow, node: ir.Node) -> None:
    shapes = [dims for index in range(len(node.inputs)) if (dims := flow.maybe(node, index)) is not None]
    if node.op_type in ("Add", "Sum", "Sub"):
        _note_sum(flow, node)
    flow.give(node, flow.broadcast(shapes, flow.out(node)))


def exit_select(flow: Flow, node: ir.Node) -> None:
    """Per sample one of two values; which one is an input of its own."""
    flow.give(node, flow.broadcast([flow.of(node, 1), flow.of(node, 2)], flow.out(node)))


def _note_sum(flow: Flow, node: ir.Node) -> None:
    """A stored summand behind a product is its bias; two computed ones are a residual connection."""
    stored = [index for index in range(len(node.inputs)) if flow.is_stored(node, index)]
    computed = [index for index in range(len(node.inputs)) if index not in stored]
    if len(computed) >= SEVERAL:
        shapes = [flow.of(node, index) for index in computed]
        for axis in range(1, 1 + min(len(dims) for dims in shapes)):
            wide = [dims[-axis] for dims in shapes if dims[-axis].size != flow.ones]
            # x + f(x) is no connection between two writers: that is one dimension already.
            differ = len({find(dim) for dim in wide}) > 1
            if differ and len(wide) == len(computed) and reason_of(wide[0]) is None:
                mark(wide[0], "added")
        return
    behind_product = any(_comes_from_product(node.inputs[index]) for index in computed)
    for index in stored:
        dims = flow.of(node, index)
        free = [
            dim
            for at, dim in enumerate(dims)
            if dim.size != flow.ones and _is_free(flow, node, computed, len(dims) - at)
        ]
        if behind_product or sum(dim.size != flow.ones for dim in dims) > 1:
            for dim in free:
                flow.plays(node, index, dim, "writes")


def _is_free(flow: Flow, node: ir.Node, computed: list[int], from_end: int) -> bool:
    """Whether an axis of the computed summands can still be cut: tables of positions have others."""
    shapes = [flow.of(node, index) for index in computed]
    return all(reason_of(dims[-from_end]) is None for dims in shapes if from_end <= len(dims))


def _comes_from_product(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in STEPS:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return node is not None and node.op_type in PRODUCTS


def clip(flow: Flow, node: ir.Node) -> None:
    """The bounds are scalars."""
    flow.give(node, flow.of(node, 0))


def one_hot(flow: Flow, node: ir.Node) -> None:
    axis = node.attributes.get_int("axis", -1)
    dims = list(flow.of(node, 0))
    sizes = flow.out(node)
    axis %= len(sizes)
    dims.insert(axis, flow.fixed(sizes[axis], "it counts classes of an index"))
    flow.give(node, dims)
