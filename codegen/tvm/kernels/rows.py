"""Kernels along the last axis: softmax and layer normalisation, a row at a time, rows in parallel.

Sums run in as many lanes as a register has, because a compiler may not reorder a float sum; what does
not fill a register is added singly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from adapass.codegen.tvm.kernels.kernel import Body, Floats, Kernel, Vectors, build
from adapass.codegen.tvm.kernels.maths import Expr, exp, real
from adapass.codegen.tvm.library import compiler

_LEAST = -3.4028234663852886e38
Combine = Callable[[Expr, Expr], Expr]


@cache
def softmax(vectors: Vectors) -> Kernel:
    """X [m, n] -> [m, n]; both are symbolic."""

    def write(body: Body) -> None:
        m, n = body.symbol("m"), body.symbol("n")
        x, y = body.argument("x", (m, n)), body.argument("y", (m, n))
        rows = _Rows(body, n, vectors.lanes)
        with body.parallel(m) as row:
            most = rows.reduce(_LEAST, body.most, lambda j: x[row, j])
            rows.each(lambda j: body.store(y, exp(x[row, j] - most[0]), row, j))
            total = rows.reduce(0.0, lambda a, b: a + b, lambda j: y[row, j])
            body.store(total, real(1.0) / total[0], 0)
            rows.each(lambda j: body.store(y, y[row, j] * total[0], row, j))

    return Kernel("softmax", build("softmax", write), _softmax)


@cache
def layer_norm(n: int, epsilon: float, *, bias: bool, vectors: Vectors) -> Kernel:
    """X [m, n], gain [n], bias [n] -> [m, n]; m is symbolic. The variance is taken around the mean."""
    name = f"layer_norm_{n}_{str(epsilon).replace('.', '_').replace('-', 'm')}{'_bias' if bias else ''}"

    def write(body: Body) -> None:
        m = body.symbol("m")
        x, gain = body.argument("x", (m, n)), body.argument("g", (n,))
        shift = body.argument("b", (n,)) if bias else None
        y = body.argument("y", (m, n))
        rows = _Rows(body, n, vectors.lanes)
        with body.parallel(m) as row:
            mean = rows.reduce(0.0, lambda a, b: a + b, lambda j: x[row, j])
            body.store(mean, mean[0] * real(1.0 / n), 0)
            rows.each(lambda j: body.store(y, x[row, j] - mean[0], row, j))
            scale = rows.reduce(0.0, lambda a, b: a + b, lambda j: y[row, j] * y[row, j])
            variance = scale[0] * real(1.0 / n)
            body.store(scale, real(1.0) / compiler("tvm.tirx").sqrt(variance + real(epsilon)), 0)

            def ended(j: Expr) -> None:
                value = y[row, j] * scale[0] * gain[j]
                body.store(y, value if shift is None else value + shift[j], row, j)

            rows.each(ended)

    def compute(x: Floats, gain: Floats, *shift: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        value = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(epsilon)) * gain
        return np.asarray(value + shift[0] if shift else value, np.float32)

    return Kernel(name, build(name, write), compute)


def _softmax(x: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        power = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(power / power.sum(-1, keepdims=True), np.float32)


class _Rows:
    """Loops over one row of ``n`` numbers."""

    def __init__(self, body: Body, n: Expr, lanes: int) -> None:
        self.body, self.n, self.lanes = body, n, lanes

    def each(self, write: Callable[[Expr], None]) -> None:
        body, lanes = self.body, self.lanes
        with body.serial(self.n // lanes) as i, body.vector(lanes) as j:
            write(i * lanes + j)
        with body.serial(self.n % lanes) as j:
            write(self.n // lanes * lanes + j)

    def reduce(self, start: float, combine: Combine, read: Callable[[Expr], Expr]) -> Any:
        """A buffer whose number 0 is the result."""
        body, lanes = self.body, self.lanes
        found = body.local(lanes)
        with body.vector(lanes) as j:
            body.store(found, real(start), j)
        with body.serial(self.n // lanes) as i, body.vector(lanes) as j:
            body.store(found, combine(found[j], read(i * lanes + j)), j)
        with body.serial(self.n % lanes) as j:
            body.store(found, combine(found[0], read(self.n // lanes * lanes + j)), 0)
        half = lanes // 2
        while half:
            with body.vector(half) as j:
                body.store(found, combine(found[j], found[half + j]), j)
            half //= 2
        return found
