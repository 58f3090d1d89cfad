"""Products: what is summed over is read, what is left is written."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import Dim, mark
from adapass.coupling.flow import Dims, Flow, Read, Refused
from adapass.coupling.relations import unify
from adapass.coupling.rules.lookups import is_looked_up_weight

MATRIX = 2


def matmul(flow: Flow, node: ir.Node) -> None:
    left, right = flow.of(node, 0), flow.of(node, 1)
    if not left or not right:
        raise Refused("MatMul of a scalar")
    row = len(right) - MATRIX if len(right) >= MATRIX else 0
    flow.contract(node, (0, len(left) - 1), (1, row))
    sizes = flow.out(node)
    matrix = [*(left[-2:-1]), *(right[-1:] if len(right) >= MATRIX else ())]
    batch = flow.broadcast([left[:-MATRIX], right[:-MATRIX]], sizes[: len(sizes) - len(matrix)])
    flow.give(node, [*batch, *matrix])
    _note_roles(flow, node, batch)


def _note_roles(flow: Flow, node: ir.Node, batch: list[Dim]) -> None:
    left, right = flow.of(node, 0), flow.of(node, 1)
    stored = flow.is_stored(node, 0), flow.is_stored(node, 1)
    is_outer = left[-1].size == flow.ones
    if any(is_looked_up_weight(flow, node, index) for index in (0, 1)):
        for dim in (*left[-MATRIX:], *right[-MATRIX:]):
            mark(dim, "linear")
        return
    if not any(stored):
        for dim in batch:
            mark(dim, "heads")
        for dim in (left[-1], *left[-2:-1], *right[-MATRIX:]):
            mark(dim, "width")
        return
    if is_outer:
        return
    for index, dims, axis in ((0, left, -2), (1, right, -1)):
        if stored[index] and len(dims) >= MATRIX:
            flow.plays(node, index, dims[axis], "writes")
            for dim in dims[:-MATRIX]:
                mark(dim, "stacked")
                flow.plays(node, index, dim, "writes")
    if not all(stored):
        mark((left if stored[0] and len(left) >= MATRIX else right)[-2 if stored[0] else -1], "linear")


def gemm(flow: Flow, node: ir.Node) -> None:
    left, right = flow.of(node, 0), flow.of(node, 1)
    left_inner = 0 if node.attributes.get_int("transA", 0) else 1
    right_inner = 1 if node.attributes.get_int("transB", 0) else 0
    flow.contract(node, (0, left_inner), (1, right_inner))
    result = [left[1 - left_inner], right[1 - right_inner]]
    for index, dim in enumerate(result):
        if flow.is_stored(node, index):
            flow.plays(node, index, dim, "writes")
            mark(dim, "linear")
    bias = flow.maybe(node, 2)
    if bias is not None:
        for mine, other in zip(reversed(bias), reversed(result), strict=False):
            if mine.size != flow.ones:
                unify(mine, other)
                flow.plays(node, 2, mine, "writes")
    flow.give(node, result)


def matmul_integer(flow: Flow, node: ir.Node) -> None:
    """Zero points are scalars, or one per row of the left and per column of the right."""
    matmul(flow, node)
    for index, axis in ((2, -2), (3, -1)):
        zero = flow.maybe(node, index)
        dims = flow.of(node, index - 2)
        if zero and zero[-1].size != flow.ones and len(dims) >= MATRIX:
            unify(zero[-1], dims[axis])


def einsum(flow: Flow, node: ir.Node) -> None:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    if "." in equation or "->" not in equation:
        raise Refused("Einsum with an ellipsis or without an output")
    named: dict[str, Dim] = {}
    shapes: list[Dims] = [flow.of(node, index) for index in range(len(terms))]
    for letters, dims in zip(terms, shapes, strict=True):
        for letter, dim in zip(letters, dims, strict=True):
            if dim.size == flow.ones and letter in named:
                continue
            if letter in named and named[letter].size != flow.ones:
                unify(named[letter], dim)
            named[letter] = dim
    flow.give(node, [named[letter] for letter in output])
    _note_einsum(flow, node, terms, output)


def _note_einsum(flow: Flow, node: ir.Node, terms: list[str], output: str) -> None:
    stored = [flow.is_stored(node, index) for index in range(len(terms))]
    for index, letters in enumerate(terms):
        for axis, letter in enumerate(letters):
            dim = flow.of(node, index)[axis]
            if letter not in output:
                flow.plays(node, index, dim, "reads")
                if not stored[index] or all(stored):
                    flow.reads.append(Read(node, index, axis))
            elif sum(letter in other for other in terms) == 1:
                flow.plays(node, index, dim, "writes")
                mark(dim, *(["linear"] if stored[index] else []))
            elif stored[index]:
                mark(dim, "stacked")
                flow.plays(node, index, dim, "writes")
            if not any(stored) and len(terms) > 1:
                shared = letter in output and all(letter in other for other in terms)
                mark(dim, "heads" if shared else "width")
