"""Indices that come from a run: held inside their axis, and reported when they were not.

TVM reads wherever an index points, which ends the process. Here every such index is wrapped and clamped,
and the number of the operator whose index was outside comes back with the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from adapass.codegen.tvm.kernels.kernel import Body, Floats, Kernel, build
from adapass.codegen.tvm.kernels.maths import Expr
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.scope import Scope, dtype_of, equal, shape_of, simplified, wrapped
from adapass.errors import ModelError


def checked(scope: Scope, node: ir.Node, where: ir.Value, size: Expr) -> Any:
    """The index ``where`` into an axis of ``size`` entries, safe to read at.

    Raises:
        ModelError: it is a constant and outside.

    """
    constant = scope.constant(where)
    if constant is not None and isinstance(size, int):
        if constant.size and not (-size <= constant.min() and constant.max() < size):
            raise ModelError(
                f"{node.op_type} '{node.outputs[0].name}' reads at {int(constant.max())} of {size} entries"
            )
        return scope.as_tensor(np.asarray(np.mod(np.asarray(constant, np.int64), size), constant.dtype))
    return guarded(scope, node, scope.tensor(where), [size])


def guarded(scope: Scope, node: ir.Node, index: Any, sizes: list[Expr]) -> Any:
    """A computed index; with several sizes its last axis holds one position for each of them."""
    te, tirx = compiler("tvm.te"), compiler("tvm.tirx")
    dtype = dtype_of(index)
    if dtype not in ("int64", "int32"):
        raise ModelError(f"{node.op_type} '{node.outputs[0].name}' reads at {dtype} indices")
    scope.shared.sites.append(f"{node.op_type} '{node.outputs[0].name}'")
    site = len(scope.shared.sites)

    def limit(at: Any, sizes: Sequence[Expr]) -> Any:
        chosen = tirx.Cast(dtype, wrapped(sizes[-1]))
        for axis in reversed(range(len(sizes) - 1)):
            chosen = tirx.Select(at[-1] < axis + 1, tirx.Cast(dtype, wrapped(sizes[axis])), chosen)
        return chosen

    def inside(data: Any, sizes: Sequence[Expr]) -> Any:
        def entry(*at: Any) -> Any:
            size = limit(at, sizes)
            place = data(*at)
            place = tirx.Select(place < 0, place + size, place)
            return tirx.max(tirx.min(place, size - 1), tirx.const(0, dtype))

        return te.compute(data.shape, entry, name="inside")

    def outside(data: Any, sizes: Sequence[Expr]) -> Any:
        axes = [te.reduce_axis((0, extent)) for extent in data.shape]

        def entry(*_: Any) -> Any:
            size, place = limit(axes, sizes), data(*axes)
            wrong = tirx.any(place < tirx.const(0, dtype) - size, place >= size)
            return te.max(tirx.Select(wrong, tirx.const(site, "int32"), tirx.const(0, "int32")), axis=axes)

        def scalar(_: Any) -> Any:
            return tirx.Select(
                _out(data(), limit((), sizes)), tirx.const(site, "int32"), tirx.const(0, "int32")
            )

        if not axes:
            return te.compute((1,), scalar, name="outside")
        return te.compute((1,), entry, name="outside")

    def _out(place: Any, size: Any) -> Any:
        return tirx.any(place < tirx.const(0, dtype) - size, place >= size)

    scope.faults.append(scope.te(outside, index, sizes))
    return scope.te(inside, index, sizes)


def cut(scope: Scope, node: ir.Node, x: Any, cuts: Mapping[int, tuple[Expr, Expr, int]]) -> Any:
    """A slice with symbolic ends, by axis (first, last, step); ends behind the axis are reported.

    The sizes of the result are those asked for, not the smaller ones that clipping would give: these have
    no name, so nothing behind could be compiled.
    """
    te, tirx = compiler("tvm.te"), compiler("tvm.tirx")
    sizes = list(shape_of(x))
    axes = list(cuts)

    def compute(data: Any, firsts: Sequence[Expr], lasts: Sequence[Expr]) -> Any:
        shape = list(data.shape)
        for axis, first, last in zip(axes, firsts, lasts, strict=True):
            step = cuts[axis][2]
            shape[axis] = simplified((last - first + (step - 1)) // step)

        def entry(*at: Any) -> Any:
            place = list(at)
            for axis, first in zip(axes, firsts, strict=True):
                place[axis] = tirx.min(wrapped(first) + at[axis] * cuts[axis][2], data.shape[axis] - 1)
            return data(*place)

        return te.compute(tuple(shape), entry, name="cut")

    if doubtful := [
        (last, sizes[axis]) for axis, (_, last, _) in cuts.items() if not equal(last, sizes[axis])
    ]:
        scope.shared.sites.append(f"{node.op_type} '{node.outputs[0].name}'")
        site = tirx.const(len(scope.shared.sites), "int32")

        def behind(lasts: Sequence[Expr], ends: Sequence[Expr]) -> Any:
            beyond = tirx.any(*(wrapped(a) > wrapped(b) for a, b in zip(lasts, ends, strict=True)))
            return _flag(beyond, site, "behind")

        scope.faults.append(scope.te(behind, *map(list, zip(*doubtful, strict=True))))
    firsts, lasts = [first for first, _, _ in cuts.values()], [last for _, last, _ in cuts.values()]
    return scope.te(compute, x, firsts, lasts)


def must_equal(scope: Scope, name: str, tensor: Any, numbers: Sequence[Expr]) -> None:
    """Report a run in which an input that holds sizes holds others than those of the tensors."""
    tirx = compiler("tvm.tirx")
    scope.shared.sites.append(f"what is sized by input '{name}'")
    site = tirx.const(len(scope.shared.sites), "int32")
    dtype = dtype_of(tensor)

    def differ(data: Any, sizes: Sequence[Expr]) -> Any:
        wrong = [tirx.NE(data(i), tirx.Cast(dtype, wrapped(size))) for i, size in enumerate(sizes)]
        return _flag(tirx.any(*wrong), site, "differ")

    scope.faults.append(scope.te(differ, tensor, list(numbers)))


def _flag(wrong: Any, site: Any, name: str) -> Any:
    te, tirx = compiler("tvm.te"), compiler("tvm.tirx")

    def entry(_: Any) -> Any:
        return tirx.Select(wrong, site, tirx.const(0, "int32"))

    return te.compute((1,), entry, name=name)


def fault(scope: Scope) -> Any:
    """int32 ``[1]``: 0, or the last site that was left."""
    relax = compiler("tvm.relax")
    if not scope.faults:
        return relax.const([0], "int32")
    found = scope.faults[0]
    for each in scope.faults[1:]:
        found = scope.emit(relax.op.maximum(found, each))
    return found


def compacted(scope: Scope, mask: Any, node: ir.Node) -> Any:
    """NonZero of a vector: where it holds, in order; the count is a new symbolic dimension.

    Raises:
        ModelError: ``mask`` has several axes that are not one.

    """
    sizes = shape_of(mask)
    if len(sizes) != 1:
        raise ModelError(f"NonZero '{node.outputs[0].name}' reads a tensor of {len(sizes)} axes, expected 1")
    relax = compiler("tvm.relax")
    name = f"compact_{dtype_of(mask)}"
    kernel = Kernel(name, build(name, lambda body: _compact(body, dtype_of(mask))), _unused)
    if name not in scope.shared.kernels:
        scope.shared.kernels[name] = (kernel, scope.builder.add_func(kernel.function, name))
    variable = scope.shared.kernels[name][1]
    types = [relax.TensorType([sizes[0]], "int64"), relax.TensorType([1], "int64")]
    both = scope.emit(relax.call_tir(variable, [mask], out_ty=types))
    places, count = scope.emit(both[0]), scope.emit(both[1])
    live = compiler("tvm.tirx").Var(f"live{len(scope.dims)}", "int64")
    scope.dims[live.name] = live
    # One value carries both the entries and their count: with the count matched apart, passes of TVM
    # moved its readers in front of it.
    zero, one = relax.const([0], "int64"), relax.const([1], "int64")
    held = scope.emit(relax.op.dynamic_strided_slice(places, zero, count, one))
    found = scope.builder.match_cast(held, relax.TensorType([live], "int64"))
    return scope.reshape(found, (1, live))


def _unused(*arrays: Floats) -> Floats:
    raise NotImplementedError(f"{len(arrays)} arrays: compaction is held against NonZero, not as a kernel")


def _compact(body: Body, dtype: str) -> None:
    t = body.t
    n = body.symbol("n")
    mask = body.argument("mask", (n,), dtype)
    places, count = body.argument("places", (n,), "int64"), body.argument("count", (1,), "int64")
    zero, one = wrapped(0), wrapped(1)
    body.store(count, zero, 0)
    with body.serial(n) as i:
        held = mask[i] if dtype == "bool" else compiler("tvm.tirx").NE(mask[i], t.Cast(dtype, zero))
        with body.when(held):
            body.store(places, i, count[0])
            body.store(count, count[0] + one, 0)
