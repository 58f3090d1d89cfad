"""Operators that move, merge and split axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from adapass.coupling.dims import Dim, Size, fix, product
from adapass.coupling.flow import Counted, Flow, Refused, Sized
from adapass.coupling.relations import split
from adapass.coupling.rules.shuffles import shuffle

TORN = "a reshape divides it across the borders of what it is made of"


def regroup(flow: Flow, dims: Sequence[Dim], sizes: Sequence[Size]) -> list[Dim]:
    """The same entries in the same order on axes of the given sizes; what cannot be followed is fixed."""
    if any(0 in size for size in sizes):
        raise Refused("an axis is empty")
    whole = product(dims, flow.ones)
    rest = list(sizes)
    left: list[Dim] = []
    while rest and (parts := split(whole, rest[0])) is not None:
        left.append(parts[0])
        whole = parts[1]
        rest.pop(0)
    right: list[Dim] = []
    while len(rest) > 1 and (parts := _split_last(whole, rest[-1])) is not None:
        right.insert(0, parts[1])
        whole = parts[0]
        rest.pop()
    if rest:
        fix(whole, TORN)
    return [*left, *(flow.fixed(size, TORN) for size in rest), *right]


def _split_last(whole: Dim, last: Size) -> tuple[Dim, Dim] | None:
    pairs = list(zip(whole.size, last, strict=True))
    if any(size % small for size, small in pairs):
        return None
    return split(whole, tuple(size // small for size, small in pairs))


def reshape(flow: Flow, node: ir.Node) -> None:
    if shuffle(flow, node):
        return
    result = regroup(flow, flow.of(node, 0), flow.out(node))
    flow.give(node, result)
    elements = tuple((dim,) for dim in result)
    if len(node.inputs) > 1:
        flow.sized.append(Sized(node, 1, "", elements, is_shape=True))
    else:
        flow.sized.append(Sized(node, None, "shape", elements, is_shape=True))


def view(flow: Flow, node: ir.Node) -> None:
    """Flatten, Squeeze, Unsqueeze: a reshape that needs no sizes."""
    flow.give(node, regroup(flow, flow.of(node, 0), flow.out(node)))


def transpose(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    order = node.attributes.get_ints("perm", tuple(reversed(range(len(dims)))))
    flow.give(node, [dims[axis] for axis in order])


def expand(flow: Flow, node: ir.Node) -> None:
    dims, sizes = flow.of(node, 0), flow.out(node)
    padded = [flow.one()] * (len(sizes) - len(dims)) + list(dims)
    result = [dim if dim.size == size else Dim(size) for dim, size in zip(padded, sizes, strict=True)]
    flow.give(node, result)
    shift = len(result) - _length(node.inputs[1], len(result))
    flow.sized.append(Sized(node, 1, "", tuple((dim,) for dim in result[shift:])))


def _length(value: ir.Value | None, default: int) -> int:
    size = value.shape[0] if value is not None and value.shape is not None and len(value.shape) else default
    return size if isinstance(size, int) else default


def tile(flow: Flow, node: ir.Node) -> None:
    dims, sizes = flow.of(node, 0), flow.out(node)
    result: list[Dim] = []
    elements: list[tuple[Dim, ...] | None] = []
    for dim, size in zip(dims, sizes, strict=True):
        if dim.size == size:
            result.append(dim)
            elements.append(None)
            continue
        repeats = Dim(tuple(a // b for a, b in zip(size, dim.size, strict=True)))
        result.append(product([repeats, dim], flow.ones))
        elements.append((repeats,))
    flow.give(node, result)
    flow.sized.append(Sized(node, 1, "", tuple(elements)))


def shape(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(dims))
    counted = dims[slice(start, end)]
    flow.counted.append(Counted(node, counted))
    flow.give(node, [flow.fixed(flow.constant(len(counted)), "it counts axes")])


def constant_of_shape(flow: Flow, node: ir.Node) -> None:
    result = [Dim(size) for size in flow.out(node)]
    flow.give(node, result)
    flow.sized.append(Sized(node, 0, "", tuple((dim,) for dim in result)))


def counting(flow: Flow, node: ir.Node) -> None:
    """Numbers counted up: their number is no width of anything."""
    flow.give(node, [flow.fixed(size, "it counts positions") for size in flow.out(node)])
