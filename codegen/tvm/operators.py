"""Operators that adapass turns into Relax itself: those on shapes and indices, and the elementwise ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from adapass.codegen.tvm import products
from adapass.codegen.tvm.indices import checked, compacted, cut
from adapass.codegen.tvm.kernels.maths import UNARY, Expr
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.scope import (
    Scope,
    Whole,
    attribute,
    dtype_of,
    equal,
    product_of,
    shape_of,
    simplified,
)
from adapass.errors import ModelError

Convert = Callable[[Scope, ir.Node], Any]
"""The value of the first output; ``None`` leaves the operator to TVM's own converters."""


def _relax() -> Any:
    return compiler("tvm.relax")


def _tensor(scope: Scope, node: ir.Node, index: int = 0) -> Any:
    value = node.inputs[index]
    if value is None:
        raise ModelError(f"input {index} of {node.op_type} '{node.outputs[0].name}' is missing")
    return scope.tensor(value)


def _shape(scope: Scope, node: ir.Node) -> Whole:
    sizes = shape_of(_tensor(scope, node))
    start, end = attribute(node, "start", 0), attribute(node, "end", None)
    entries = np.empty(len(sizes), object)
    entries[:] = sizes
    return Whole(entries[start:end])


def _size(scope: Scope, node: ir.Node) -> Whole:
    entries = np.empty((), object)
    entries[()] = product_of(shape_of(_tensor(scope, node)))
    return Whole(entries)


def _sizes(scope: Scope, node: ir.Node, index: int) -> list[Expr]:
    """The entries of an input that says how large the result is."""
    found = scope.whole(node.inputs[index])
    if found is None:
        raise ModelError(
            f"the size of the result of {node.op_type} '{node.outputs[0].name}' is known only when it runs"
        )
    return list(found.entries.flat)


def _reshape(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    old, new = shape_of(x), _sizes(scope, node, 1)
    if not attribute(node, "allowzero", 0):
        new = [old[i] if _is(size, 0) else size for i, size in enumerate(new)]
    if open_ := [i for i, size in enumerate(new) if _is(size, -1)]:
        new[open_[0]] = _rest(old, [size for i, size in enumerate(new) if i != open_[0]])
    return scope.reshape(x, new)


def _is(size: Expr, number: int) -> bool:
    return isinstance(size, int) and size == number


def _rest(old: Sequence[Expr], new: Sequence[Expr]) -> Expr:
    """What is left of ``old`` for one dimension: factors on both sides cancel before anything is divided."""
    above, below = list(old), list[Expr]()
    for size in new:
        same = next((i for i, each in enumerate(above) if equal(each, size)), None)
        if same is None:
            below.append(size)
        else:
            del above[same]
    top, bottom = product_of(above), product_of(below)
    if isinstance(top, int) and isinstance(bottom, int):
        return top // bottom
    return simplified(compiler("tvm.tirx").floordiv(top, bottom))


def _expand(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    old, new = list(shape_of(x)), _sizes(scope, node, 1)
    width = max(len(old), len(new))
    old, new = [1] * (width - len(old)) + old, [1] * (width - len(new)) + new
    shape = [b if _is(a, 1) else a for a, b in zip(old, new, strict=True)]
    return scope.emit(_relax().op.broadcast_to(x, _relax().ShapeExpr(shape)))


def _range(scope: Scope, node: ir.Node) -> Any | None:
    ends = [scope.whole(value) for value in node.inputs]
    if any(each is None for each in ends):
        return None
    start, stop, step = (each.entries.item() for each in ends if each is not None)
    if not isinstance(step, int) or step < 1:
        return None
    te, tirx = compiler("tvm.te"), compiler("tvm.tirx")
    count = simplified((stop - start + (step - 1)) // step)
    dtype = ends[0].dtype if ends[0] is not None else "int64"

    def compute(first: Expr, size: Expr) -> Any:
        def entry(place: Any) -> Any:
            return tirx.Cast(dtype, first + place * step)

        return te.compute((size,), entry, name="range")

    return scope.te(compute, start, count)


def _filled(scope: Scope, node: ir.Node) -> Any:
    sizes = _sizes(scope, node, 0)
    value = attribute(node, "value", None)
    number = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    relax = _relax()
    filled = relax.op.full(relax.ShapeExpr(sizes), relax.const(number, number.dtype.name), number.dtype.name)
    return scope.emit(filled)


def _transpose(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    order = attribute(node, "perm", None)
    return scope.emit(_relax().op.permute_dims(x, None if order is None else [int(i) for i in order]))


def _concat(scope: Scope, node: ir.Node) -> Any:
    parts = [scope.tensor(value) for value in node.inputs if value is not None]
    if len(parts) == 1:
        return parts[0]
    return scope.emit(_relax().op.concat(parts, int(attribute(node, "axis", 0))))


def _squeeze(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    sizes = shape_of(x)
    axes = _axes(scope, node)
    dropped = (
        {i for i, size in enumerate(sizes) if _is(size, 1)}
        if axes is None
        else {i % len(sizes) for i in axes}
    )
    return scope.reshape(x, [size for i, size in enumerate(sizes) if i not in dropped])


def _unsqueeze(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    sizes, axes = list(shape_of(x)), _axes(scope, node) or []
    width = len(sizes) + len(axes)
    added = {i % width for i in axes}
    old = iter(sizes)
    return scope.reshape(x, [1 if i in added else next(old) for i in range(width)])


def _axes(scope: Scope, node: ir.Node) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return [int(each) for each in _sizes(scope, node, 1)]
    given = attribute(node, "axes", None)
    return None if given is None else [int(each) for each in given]


def _flatten(scope: Scope, node: ir.Node) -> Any:
    x = _tensor(scope, node)
    sizes, axis = shape_of(x), int(attribute(node, "axis", 1))
    axis = axis + len(sizes) if axis < 0 else axis
    return scope.reshape(x, (product_of(sizes[:axis]), product_of(sizes[axis:])))


def _slice(scope: Scope, node: ir.Node) -> Any | None:
    x = _tensor(scope, node)
    if len(node.inputs) < 3:
        return None
    sizes = shape_of(x)
    parts = [scope.whole(value) for value in node.inputs[1:]]
    if any(part is None and value is not None for part, value in zip(parts, node.inputs[1:], strict=True)):
        return None
    starts, ends, *rest = [None if part is None else list(part.entries.flat) for part in parts]
    assert starts is not None
    assert ends is not None
    axes = rest[0] if rest and rest[0] is not None else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else [1] * len(starts)
    if any(not isinstance(step, int) or step < 1 for step in steps):
        return None
    axes = [int(axis) % len(sizes) for axis in axes]
    first = [_place(start, sizes[axis]) for start, axis in zip(starts, axes, strict=True)]
    last = [_place(end, sizes[axis]) for end, axis in zip(ends, axes, strict=True)]
    if any(each is None for each in (*first, *last)):
        return None
    known = [isinstance(each, int) for each in (*first, *last)]
    if all(known) and all(isinstance(sizes[axis], int) for axis in axes):
        return scope.emit(_relax().op.strided_slice(x, axes, first, last, steps, assume_inbound=False))
    return cut(scope, node, x, dict(zip(axes, zip(first, last, steps, strict=True), strict=True)))


def _place(number: Expr, size: Expr) -> Expr | None:
    """A start or end as a position from the front, inside the axis."""
    if not isinstance(number, int):
        return number
    if number < 0:
        place = simplified(size + number)
        return max(place, 0) if isinstance(place, int) else place
    return min(number, size) if isinstance(size, int) else (size if number >= (1 << 31) - 1 else number)


def _gather(scope: Scope, node: ir.Node) -> Any:
    x, where = _tensor(scope, node), node.inputs[1]
    assert where is not None
    axis = int(attribute(node, "axis", 0))
    sizes = shape_of(x)
    axis = axis % len(sizes)
    index = checked(scope, node, where, sizes[axis])
    te = compiler("tvm.te")
    rank = len(shape_of(index))

    def compute(data: Any, places: Any) -> Any:
        shape = (*data.shape[:axis], *places.shape, *data.shape[axis + 1 :])

        def entry(*at: Any) -> Any:
            return data(*at[:axis], places(*at[axis : axis + rank]), *at[axis + rank :])

        return te.compute(shape, entry, name="gather")

    return scope.te(compute, x, index)


def _cast(scope: Scope, node: ir.Node) -> Any | None:
    x = _tensor(scope, node)
    wanted = ir.DataType(attribute(node, "to", 0)).numpy().name
    if dtype_of(x) == wanted:
        return x
    return scope.emit(_relax().op.astype(x, wanted))


def _unary(name: str) -> Convert:
    def convert(scope: Scope, node: ir.Node) -> Any | None:
        x = _tensor(scope, node)
        if dtype_of(x) != "float32":
            return None
        te = compiler("tvm.te")
        chosen = "gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else name
        rule = UNARY[chosen]

        def compute(data: Any) -> Any:
            def entry(*at: Any) -> Any:
                return rule(data(*at))

            return te.compute(data.shape, entry, name=chosen)

        return scope.te(compute, x) if chosen == "relu" else scope.te_apart(compute, x)

    return convert


def _binary(name: str) -> Convert:
    def convert(scope: Scope, node: ir.Node) -> Any | None:
        if len(node.inputs) != 2:
            return None
        return scope.emit(getattr(_relax().op, name)(_tensor(scope, node), _tensor(scope, node, 1)))

    return convert


def _nonzero(scope: Scope, node: ir.Node) -> Any:
    return compacted(scope, _tensor(scope, node), node)


def _where(scope: Scope, node: ir.Node) -> Any:
    test, yes, no = (_tensor(scope, node, index) for index in range(3))
    return scope.emit(_relax().op.where(test, yes, no))


def _identity(scope: Scope, node: ir.Node) -> Any:
    return _tensor(scope, node)


OPERATORS: Final[Mapping[str, Convert]] = MappingProxyType(
    {
        "Add": _binary("add"),
        "Cast": _cast,
        "Concat": _concat,
        "ConstantOfShape": _filled,
        "Erf": _unary("erf"),
        "Exp": _unary("exp"),
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Gelu": _unary("gelu"),
        "Identity": _identity,
        "LayerNormalization": products.layer_norm,
        "MatMul": products.matmul,
        "Mul": _binary("multiply"),
        "NonZero": _nonzero,
        "Range": _range,
        "Relu": _unary("relu"),
        "Reshape": _reshape,
        "Shape": _shape,
        "Sigmoid": _unary("sigmoid"),
        "Size": _size,
        "Slice": _slice,
        "Softmax": products.softmax,
        "Squeeze": _squeeze,
        "Sub": _binary("subtract"),
        "Tanh": _unary("tanh"),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Where": _where,
    }
)
