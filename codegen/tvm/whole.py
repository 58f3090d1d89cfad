"""Operators on numbers of shapes, done while importing: numpy on objects that are numbers or dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from adapass.codegen.tvm.kernels.maths import Expr
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.scope import MAX_WHOLE, Objects, Scope, Whole, attribute, equal, simplified, wrapped

Rule = Callable[[Scope, ir.Node, list[Whole | None]], "Objects | None"]
_INTEGER = frozenset({ir.DataType.INT64, ir.DataType.INT32})


def follow(scope: Scope, node: ir.Node) -> Whole | None:
    """The result of ``node`` where it is one of whole numbers that are known or symbolic."""
    if (rule := RULES.get(node.op_type)) is None or node.domain:
        return None
    operands = [scope.whole(value) for value in node.inputs]
    if any(each is None and value is not None for each, value in zip(operands, node.inputs, strict=True)):
        return None
    found = rule(scope, node, operands)
    if found is None or found.size > MAX_WHOLE:
        return None
    made = np.empty(found.shape, object)
    for place in np.ndindex(found.shape):
        made[place] = simplified(found[place])
    dtype = node.outputs[0].dtype
    return Whole(made, dtype.numpy().name if dtype in _INTEGER and dtype is not None else "int64")


def _elementwise(compute: Callable[[Expr, Expr], Expr]) -> Rule:
    def rule(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
        del scope, node
        a, b = (_entries(each) for each in operands)
        pairs = np.broadcast(a, b)
        found = np.empty(pairs.size, object)
        for place, (x, y) in enumerate(pairs):
            found[place] = compute(x, y)
        return found.reshape(pairs.shape)

    return rule


def _entries(operand: Whole | None) -> Objects:
    assert operand is not None
    return operand.entries


def _numbers(operand: Whole | None) -> list[int] | None:
    """Plain numbers, where an operand says how and not what."""
    if operand is None or not operand.fixed:
        return None
    return [int(each) for each in operand.entries.flat]


def _divide(a: Expr, b: Expr) -> Expr:
    if isinstance(a, int) and isinstance(b, int):
        return int(np.sign(a) * np.sign(b)) * (abs(a) // abs(b))
    return compiler("tvm.tirx").floordiv(wrapped(a), wrapped(b))


def _least(a: Expr, b: Expr) -> Expr:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else compiler("tvm.tirx").min(a, b)


def _most(a: Expr, b: Expr) -> Expr:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else compiler("tvm.tirx").max(a, b)


def _identity(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects:
    del scope, node
    return _entries(operands[0])


def _cast(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope
    return _entries(operands[0]) if ir.DataType(attribute(node, "to", 0)) in _INTEGER else None


def _gather(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope
    entries, where = _entries(operands[0]), operands[1]
    if where is None or not where.fixed or attribute(node, "axis", 0) not in (0, -entries.ndim):
        return None
    places = where.entries.astype(np.int64)
    if places.size and not (-len(entries) <= places.min() and places.max() < len(entries)):
        return None
    return np.asarray(np.take(entries, places, axis=0), object)


def _concat(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects:
    del scope
    return np.concatenate([_entries(each) for each in operands], attribute(node, "axis", 0))


def _squeeze(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects:
    del scope
    axes = _axes(node, operands)
    return np.squeeze(_entries(operands[0]), None if axes is None else tuple(axes))


def _unsqueeze(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects:
    del scope
    return np.expand_dims(_entries(operands[0]), tuple(_axes(node, operands) or ()))


def _axes(node: ir.Node, operands: list[Whole | None]) -> list[int] | None:
    if len(operands) > 1:
        return _numbers(operands[1])
    given = attribute(node, "axes", None)
    return None if given is None else [int(each) for each in given]


def _reshape(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope, node
    shape = _numbers(operands[1])
    return None if shape is None or 0 in shape else _entries(operands[0]).reshape(shape)


def _slice(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope, node
    entries = _entries(operands[0])
    rest = [_numbers(each) for each in operands[1:]]
    if entries.ndim != 1 or len(rest) < 2 or rest[0] is None or rest[1] is None or len(rest[0]) != 1:
        return None
    step = rest[3][0] if len(rest) > 3 and rest[3] is not None else 1
    low = -len(entries) - 1
    end = rest[1][0]
    return entries[max(rest[0][0], low) : None if end <= low and step < 0 else end : step]


def _constant_of_shape(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope
    shape = _numbers(operands[0])
    value = attribute(node, "value", None)
    if shape is None or np.prod(shape, initial=1) > MAX_WHOLE:
        return None
    if value is None or value.dtype not in _INTEGER:
        return None
    return np.full(shape, int(value.numpy().item()), object)


def _range(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope, node
    ends = [_numbers(each) for each in operands]
    if any(each is None for each in ends):
        return None
    start, stop, step = (each[0] for each in ends if each is not None)
    if step == 0 or (stop - start) / step > MAX_WHOLE:
        return None
    return np.array(range(start, stop, step), object)


def _where(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del node, scope
    shape = np.broadcast_shapes(*(_entries(each).shape for each in operands))
    test, yes, no = (np.broadcast_to(_entries(each), shape) for each in operands)
    if not all(isinstance(each, int) for each in test.flat):
        return None
    found = np.empty(shape, object)
    for place in np.ndindex(shape):
        found[place] = yes[place] if test[place] else no[place]
    return found


def _equal(scope: Scope, node: ir.Node, operands: list[Whole | None]) -> Objects | None:
    del scope, node
    a, b = np.broadcast_arrays(_entries(operands[0]), _entries(operands[1]))
    found = np.empty(a.shape, object)
    for place in np.ndindex(a.shape):
        if equal(a[place], b[place]):
            found[place] = 1
        elif _differ(a[place], b[place]):
            found[place] = 0
        else:
            return None
    return found


def _differ(a: Expr, b: Expr) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    # Dimensions are at least one (empty inputs are refused): they never equal the -1 and 0 of Reshape.
    number, dimension = (a, b) if isinstance(a, int) else (b, a)
    variable: Any = compiler("tvm.tirx").Var
    return isinstance(number, int) and number < 1 and isinstance(dimension, variable)


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "Add": _elementwise(lambda a, b: a + b),
        "Cast": _cast,
        "Concat": _concat,
        "ConstantOfShape": _constant_of_shape,
        "Div": _elementwise(_divide),
        "Equal": _equal,
        "Gather": _gather,
        "Identity": _identity,
        "Max": _elementwise(_most),
        "Min": _elementwise(_least),
        "Mul": _elementwise(lambda a, b: a * b),
        "Range": _range,
        "Reshape": _reshape,
        "Slice": _slice,
        "Squeeze": _squeeze,
        "Sub": _elementwise(lambda a, b: a - b),
        "Unsqueeze": _unsqueeze,
        "Where": _where,
    }
)
