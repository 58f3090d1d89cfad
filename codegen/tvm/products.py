"""Matrix products, convolutions, softmax and layer normalisation, handed to the kernels of adapass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.codegen.tvm.chains import Chain, Step
from adapass.codegen.tvm.kernels import convolution, product, rows
from adapass.codegen.tvm.kernels.kernel import Ending
from adapass.codegen.tvm.kernels.maths import Expr
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.scope import (
    Scope,
    attribute,
    dtype_of,
    equal_shapes,
    product_of,
    shape_of,
)


def convert_chain(scope: Scope, chain: Chain) -> Any | None:
    """The result of the last operator of ``chain``; ``None`` where no kernel fits and nothing was emitted."""
    weight = scope.constant(chain.root.inputs[1])
    if weight is None or weight.dtype != np.float32 or weight.size == 0:
        return None
    if chain.root.op_type == "Conv":
        return _convolved(scope, chain, weight)
    return _multiplied(scope, chain, weight)


def _multiplied(scope: Scope, chain: Chain, weight: Array) -> Any | None:
    root = chain.root
    if weight.ndim != 2:
        return None
    bias = _gemm_bias(scope, root)
    if bias is _NO_KERNEL:
        return None
    name = root.inputs[1].name if root.inputs[1] is not None else ""
    alpha = float(attribute(root, "alpha", 1.0)) if root.op_type == "Gemm" else 1.0
    turned = root.op_type == "Gemm" and attribute(root, "transB", 0)
    x = scope.tensor(_first(root))
    if dtype_of(x) != "float32" or not shape_of(x):
        return None
    plain = np.asarray(weight.T if turned else weight, np.float32) * np.float32(alpha)
    (k, n), sizes = plain.shape, shape_of(x)
    width = product.panel_columns(n, scope.shared.vectors)
    stored = _stored(scope, name, f"{turned} {alpha} {width}", lambda: product.packed(plain, width))
    endings, extras = _endings(scope, chain.steps, bias, n)
    shape = (*sizes[:-1], n)
    m = product_of(sizes[:-1])
    kernel = product.row_product(k, n, endings, scope.shared.vectors)
    flat = [scope.reshape(e, (m, n)) if wide else e for e, wide in extras]
    found = scope.call(kernel, [scope.reshape(x, (m, k)), stored, *flat], (m, n))
    return scope.reshape(found, shape)


_NO_KERNEL = np.zeros(0, np.float32)


def _gemm_bias(scope: Scope, root: ir.Node) -> Array | None:
    """What Gemm adds, if it is one number a column; ``_NO_KERNEL`` where the operator is another one."""
    if root.op_type == "MatMul":
        return None
    if attribute(root, "transA", 0):
        return _NO_KERNEL
    given = root.inputs[2] if len(root.inputs) > 2 else None
    if given is None:
        return None
    bias = scope.constant(given)
    if bias is None or bias.dtype != np.float32 or any(size != 1 for size in bias.shape[:-1]):
        return _NO_KERNEL
    return np.asarray(bias.reshape(-1), np.float32) * np.float32(attribute(root, "beta", 1.0))


def _endings(
    scope: Scope, steps: Sequence[Step], bias: Array | None, columns: int
) -> tuple[tuple[Ending, ...], list[tuple[Any, bool]]]:
    """What ends the kernel, and what that reads: expressions, and whether each is as large as the result."""
    endings: list[Ending] = []
    extras: list[tuple[Any, bool]] = []
    if bias is not None:
        endings.append(Ending.BIAS)
        extras.append((_per_column(bias, columns), False))
    for step in steps:
        endings.append(step.ending)
        if step.operand is None:
            continue
        if step.ending is Ending.ADD:
            extras.append((scope.tensor(step.operand), True))
        else:
            constant = scope.constant(step.operand)
            assert constant is not None
            extras.append((_per_column(constant, columns), False))
    return tuple(endings), extras


def _per_column(array: Array, columns: int) -> Any:
    numbers = np.broadcast_to(array.reshape(-1).astype(np.float32), (columns,))
    return compiler("tvm.relax").const(np.ascontiguousarray(numbers), "float32")


def _stored(scope: Scope, name: str | None, how: str, make: Callable[[], Array]) -> Any:
    """A weight as its kernel wants it, once however many places read it."""
    key = (name or "", how)
    if not name or key not in scope.shared.packed:
        scope.shared.packed[key] = compiler("tvm.relax").const(make(), "float32")
    return scope.shared.packed[key]


def _convolved(scope: Scope, chain: Chain, weight: Array) -> Any | None:
    root = chain.root
    if weight.ndim != 4 or attribute(root, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    x = scope.tensor(_first(root))
    if dtype_of(x) != "float32":
        return None
    sizes = shape_of(x)
    given = root.inputs[2] if len(root.inputs) > 2 else None
    bias = scope.constant(given)
    if (given is not None and bias is None) or not isinstance(sizes[1], int):
        return None
    valid = attribute(root, "auto_pad", "NOTSET") == "VALID"
    top, left, bottom, right = (0, 0, 0, 0) if valid else attribute(root, "pads", (0, 0, 0, 0))
    shape = convolution.Shape(
        channels=sizes[1],
        filters=weight.shape[0],
        groups=int(attribute(root, "group", 1)),
        kernel=(weight.shape[2], weight.shape[3]),
        stride=_pair(attribute(root, "strides", (1, 1))),
        dilation=_pair(attribute(root, "dilations", (1, 1))),
        pads=(int(top), int(left), int(bottom), int(right)),
    )
    if min(shape.pads) < 0 or shape.filters % shape.groups:
        return None
    tile = convolution.tile_channels(shape, scope.shared.vectors)
    name = root.inputs[1].name if root.inputs[1] is not None else ""
    stored = _stored(
        scope,
        name,
        f"{shape.name} {tile}",
        lambda: convolution.packed(np.asarray(weight, np.float32), shape, tile),
    )
    endings, extras = _endings(scope, chain.steps, bias, shape.filters)
    known = tuple(each if isinstance(each, int) else None for each in sizes[2:])
    kernel = convolution.convolution(shape, (known[0], known[1]), endings, scope.shared.vectors)
    result = (sizes[0], shape.filters, *shape.result(*sizes[2:]))
    return scope.call(kernel, [x, stored, *(e for e, _ in extras)], result)


def _pair(given: Sequence[int]) -> tuple[int, int]:
    first, second = given
    return int(first), int(second)


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def matmul(scope: Scope, node: ir.Node) -> Any | None:
    """The product of two activations."""
    a, b = (scope.tensor(value) for value in node.inputs if value is not None)
    if dtype_of(a) != "float32" or dtype_of(b) != "float32":
        return None
    first, second = shape_of(a), shape_of(b)
    if len(first) < 2 or len(second) < 2:
        return None
    outer = first[:-2]
    m, k, n = first[-2], first[-1], second[-1]
    if len(second) == 2:
        m, outer, shape = product_of(first[:-1]), (), (*first[:-1], n)
    elif equal_shapes(outer, second[:-2]):
        shape = (*outer, m, n)
    else:
        return None
    count = product_of(outer)
    kernel = product.batch_product(scope.shared.vectors)
    flat = [scope.reshape(a, (count, m, k)), scope.reshape(b, (count, k, n))]
    return scope.reshape(scope.call(kernel, flat, (count, m, n)), shape)


def softmax(scope: Scope, node: ir.Node) -> Any | None:
    x = scope.tensor(_first(node))
    sizes = shape_of(x)
    axis = int(attribute(node, "axis", -1))
    if dtype_of(x) != "float32" or not sizes or axis not in (-1, len(sizes) - 1):
        return None
    flat = (product_of(sizes[:-1]), sizes[-1])
    found = scope.call(rows.softmax(scope.shared.vectors), [scope.reshape(x, flat)], flat)
    return scope.reshape(found, sizes)


def layer_norm(scope: Scope, node: ir.Node) -> Any | None:
    """Over the last axis alone, with one gain (and bias) a column."""
    x = scope.tensor(_first(node))
    sizes = shape_of(x)
    axis = int(attribute(node, "axis", -1))
    if dtype_of(x) != "float32" or len(sizes) < 2 or axis not in (-1, len(sizes) - 1):
        return None
    columns = sizes[-1]
    if not isinstance(columns, int) or any(value.uses() for value in node.outputs[1:]):
        return None
    gains = [scope.tensor(value) for value in node.inputs[1:] if value is not None]
    if any(not equal_shapes(shape_of(gain), (columns,)) for gain in gains):
        return None
    flat: tuple[Expr, Expr] = (product_of(sizes[:-1]), columns)
    epsilon = float(attribute(node, "epsilon", 1e-5))
    kernel = rows.layer_norm(columns, epsilon, bias=len(gains) > 1, vectors=scope.shared.vectors)
    return scope.reshape(scope.call(kernel, [scope.reshape(x, flat), *gains], flat), sizes)
