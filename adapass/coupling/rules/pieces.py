"""Operators that join and take apart: Concat, Split, Slice, Pad."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from adapass.coupling.dims import Dim, Size, fix, reason_of, total
from adapass.coupling.flow import Flow, Refused, Sized
from adapass.coupling.relations import cut, split, unify
from adapass.graph.constants import constant_array

UNEVEN = "it is cut in a place that lies inside one of its parts"
PICKED = "entries are picked from it by number"


def integers(node: ir.Node, index: int, attribute: str) -> tuple[int, ...] | None:
    """A list of integers that newer operator sets give as an input and older ones as an attribute."""
    if attribute in node.attributes:
        return tuple(node.attributes.get_ints(attribute, ()))
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant_array(value)
    return None if array is None else tuple(int(number) for number in array.reshape(-1))


def pieces(flow: Flow, dim: Dim, sizes: Sequence[Size], reason: str = UNEVEN) -> list[Dim]:
    """``dim`` as consecutive parts of the given sizes; where that is impossible it is fixed."""
    found: list[Dim] = []
    rest = dim
    for number, size in enumerate(sizes[:-1]):
        parts = cut(rest, size) if any(size) else (Dim(size), rest)
        if parts is None:
            fix(rest, reason)
            return [*found, *(flow.fixed(each, reason) for each in sizes[number:])]
        found.append(parts[0])
        rest = parts[1]
    return [*found, rest]


def concat(flow: Flow, node: ir.Node) -> None:
    shapes = [flow.of(node, index) for index in range(len(node.inputs))]
    axis = node.attributes.get_int("axis", 1) % len(shapes[0])
    for other in shapes[1:]:
        for position, (mine, theirs) in enumerate(zip(shapes[0], other, strict=True)):
            if position != axis:
                unify(mine, theirs)
    result = list(shapes[0])
    result[axis] = total([dims[axis] for dims in shapes])
    flow.give(node, result)


def split_node(flow: Flow, node: ir.Node) -> None:
    dims = list(flow.of(node, 0))
    axis = node.attributes.get_int("axis", 0) % len(dims)
    sizes = [flow.out(node, index)[axis] for index in range(len(node.outputs))]
    found = pieces(flow, dims[axis], sizes)
    for index, part in enumerate(found):
        flow.give(node, [*dims[:axis], part, *dims[axis + 1 :]], index)
    elements = tuple((part,) for part in found)
    is_old = "split" in node.attributes or flow.opset < 13
    flow.sized.append(Sized(node, None if is_old else 1, "split" if is_old else "", elements))


def slice_node(flow: Flow, node: ir.Node) -> None:
    dims = list(flow.of(node, 0))
    sizes = flow.out(node)
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    has_axes = "axes" in node.attributes or (len(node.inputs) > 3 and node.inputs[3] is not None)
    axes = integers(node, 3, "axes") if has_axes else tuple(range(len(starts or ())))
    has_steps = len(node.inputs) > 4 and node.inputs[4] is not None
    steps = integers(node, 4, "steps") if has_steps else None
    if axes is None or (has_steps and steps is None):
        raise Refused("a Slice computes its axes or steps")
    first: list[tuple[Dim, ...] | None] = [None] * len(axes)
    last: list[tuple[Dim, ...] | None] = [None] * len(axes)
    follows: tuple[Dim, ...] = ()
    for number, axis in enumerate(axes):
        axis %= len(dims)
        dim, step = dims[axis], steps[number] if steps else 1
        if starts is None or ends is None:
            fix(dim, "a Slice computes where it cuts it")
        if (reason := reason_of(dim)) is not None or starts is None or ends is None:
            same = dim.size == sizes[axis] and step == 1
            dims[axis] = dim if same else flow.fixed(sizes[axis], reason or UNEVEN)
            continue
        if step != 1:
            dims[axis] = _strided(flow, dim, sizes[axis], starts[number], step)
            continue
        before, dims[axis], after = between(flow, dim, starts[number], sizes[axis])
        if any(before.size):
            first[number] = (before,)
            follows += (dims[axis], after) if starts[number] < 0 else ()
        if any(after.size):
            last[number] = (before, dims[axis])
            follows += (after,) if ends[number] < 0 else ()
    flow.give(node, dims)
    is_old = "starts" in node.attributes
    flow.sized.append(Sized(node, None if is_old else 1, "starts", tuple(first), follows=follows))
    flow.sized.append(Sized(node, None if is_old else 2, "ends", tuple(last), follows=follows))


def between(flow: Flow, dim: Dim, start: int, size: Size) -> tuple[Dim, Dim, Dim]:
    whole = dim.size
    low = tuple(max(0, s + start) if start < 0 else min(start, s) for s in whole)
    high = tuple(s - a - b for s, a, b in zip(whole, low, size, strict=True))
    before, middle, after = (
        pieces(flow, dim, [low, size, high])
        if any(high)
        else (
            *pieces(flow, dim, [low, size]),
            Dim(high),
        )
    )
    return before, middle, after


def _strided(flow: Flow, dim: Dim, size: Size, start: int, step: int) -> Dim:
    """Every ``step``-th entry: the outer factor of a product with ``step``."""
    even = all(s * step == w for s, w in zip(size, dim.size, strict=True)) and 0 <= start < step
    parts = split(dim, size) if even else None
    if parts is None:
        fix(dim, PICKED)
        return flow.fixed(size, PICKED)
    fix(parts[1], PICKED)
    return parts[0]


def pad(flow: Flow, node: ir.Node) -> None:
    dims, sizes = list(flow.of(node, 0)), flow.out(node)
    amounts = integers(node, 1, "pads")
    axes = integers(node, 3, "") if len(node.inputs) > 3 and node.inputs[3] is not None else None
    axes = tuple(range(len(dims))) if axes is None else tuple(axis % len(dims) for axis in axes)
    is_zero = node.attributes.get_string("mode", "constant") == "constant"
    elements: list[tuple[Dim, ...] | None] = [None] * (2 * len(axes))
    for number, axis in enumerate(axes):
        dim = dims[axis]
        around = None if amounts is None else (amounts[number], amounts[number + len(axes)])
        if around == (0, 0) or (dim.size == sizes[axis] and around is None):
            continue
        if not is_zero or around is None or min(around) < 0:
            fix(dim, "Pad repeats, mirrors or crops it")
        if (reason := reason_of(dim)) is not None or around is None:
            dims[axis] = flow.fixed(sizes[axis], reason or "it is padded")
            continue
        borders = [Dim(flow.constant(amount)) for amount in around]
        dims[axis] = total([borders[0], dim, borders[1]])
        elements[number], elements[number + len(axes)] = (borders[0],), (borders[1],)
    flow.give(node, dims)
    is_old = "pads" in node.attributes
    flow.sized.append(Sized(node, None if is_old else 1, "pads", tuple(elements)))
