"""Normalisations and reductions."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import fix
from adapass.coupling.flow import Dims, Flow, Read, Refused, Sized
from adapass.coupling.relations import split, unify
from adapass.coupling.rules.pieces import integers

HARMLESS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})
"""Reductions to which zeros add nothing."""


def batch_norm(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    for index in range(1, len(node.inputs)):
        unify(flow.of(node, index)[0], dims[1])
    if len([value for value in node.outputs if value.uses()]) > 1:
        raise Refused("a BatchNormalization in training mode")
    flow.give(node, dims)


def layer_norm(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    axis = node.attributes.get_int("axis", -1) % len(dims)
    flow.norm(node, 0, range(axis, len(dims)))
    for index in range(1, len(node.inputs)):
        _scale(flow, flow.maybe(node, index), dims)
    flow.give(node, dims)
    for index in range(1, len(node.outputs)):
        flow.give(node, [*dims[:axis], *(flow.one() for _ in dims[axis:])], index)


def _scale(flow: Flow, scale: Dims | None, dims: Dims) -> None:
    for mine, other in zip(reversed(scale or ()), reversed(dims), strict=False):
        if mine.size != flow.ones:
            unify(mine, other)


def instance_norm(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    unify(flow.of(node, 1)[0], dims[1])
    unify(flow.of(node, 2)[0], dims[1])
    flow.norm(node, 0, range(2, len(dims)))
    flow.give(node, dims)


def group_norm(flow: Flow, node: ir.Node) -> None:
    """Scales belong to groups before operator set 21 and to channels since."""
    dims = flow.of(node, 0)
    groups = node.attributes.get_int("num_groups", 1)
    parts = split(dims[1], flow.constant(groups))
    if parts is None:
        raise Refused(f"the channels do not divide into the {groups} groups of a GroupNormalization")
    for index in (1, 2):
        scale = flow.of(node, index)[0]
        unify(scale, dims[1] if scale.size == dims[1].size else parts[0])
    flow.norm_within(node, parts[1])
    flow.sized.append(Sized(node, None, "num_groups", ((parts[0],),)))
    flow.give(node, dims)


def reduce(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    axes = _reduced(node, len(dims))
    result = list(dims)
    for axis in axes:
        result[axis] = flow.one()
        if node.op_type == "ReduceMean":
            continue
        if node.op_type in HARMLESS:
            flow.reads.append(Read(node, 0, axis))
        else:
            fix(dims[axis], f"{node.op_type} runs over it")
    if node.op_type == "ReduceMean":
        flow.norm(node, 0, axes)
    keeps = node.attributes.get_int("keepdims", 1)
    flow.give(node, [dim for axis, dim in enumerate(result) if keeps or axis not in axes])


def _reduced(node: ir.Node, rank: int) -> tuple[int, ...]:
    has = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
    axes = integers(node, 1, "axes") if has else ()
    if axes is None:
        raise Refused(f"{node.op_type} computes its axes")
    if not axes:
        return () if node.attributes.get_int("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def along(flow: Flow, node: ir.Node) -> None:
    """Softmax and others that mix all entries of an axis; before operator set 13 of all axes behind it."""
    dims = flow.of(node, 0)
    is_old = flow.opset < 13 and node.op_type in ("Softmax", "LogSoftmax", "Hardmax")
    axis = node.attributes.get_int("axis", 1 if is_old else -1) % len(dims)
    for dim in dims[axis:] if is_old else dims[axis : axis + 1]:
        fix(dim, f"{node.op_type} runs over it")
    flow.give(node, dims)


def cumulative(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    axes = integers(node, 1, "")
    for dim in dims if axes is None else (dims[axes[0] % len(dims)],):
        fix(dim, f"{node.op_type} runs over it")
    flow.give(node, dims)


def arg(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(dims)
    fix(dims[axis], f"{node.op_type} runs over it")
    kept = [flow.one()] if node.attributes.get_int("keepdims", 1) else []
    flow.give(node, [*dims[:axis], *kept, *dims[axis + 1 :]])


def top(flow: Flow, node: ir.Node) -> None:
    dims = list(flow.of(node, 0))
    axis = node.attributes.get_int("axis", -1) % len(dims)
    fix(dims[axis], f"{node.op_type} runs over it")
    dims[axis] = flow.fixed(flow.out(node)[axis], f"{node.op_type} runs over it")
    for index in range(len(node.outputs)):
        flow.give(node, dims, index)


def lp_norm(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    flow.reads.append(Read(node, 0, node.attributes.get_int("axis", -1) % len(dims)))
    flow.give(node, dims)


def mean_variance(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    axes = node.attributes.get_ints("axes", (0, 2, 3))
    for axis in axes:
        fix(dims[axis], "MeanVarianceNormalization runs over it")
    flow.give(node, dims)


def triangle(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    for dim in dims[-2:]:
        fix(dim, "Trilu cuts a triangle out of it")
    flow.give(node, dims)
