"""Matrix products with any number of rows: register tiles over packed weights, or over a second activation.

    y[m, n] = ending(x[m, k] @ w[k, n])          weights packed in panels of columns, [n / c, k, c]
    y[b, m, n] = x[b, m, k] @ w[b, k, n]         every dimension may be symbolic

A tile of ``rows`` x ``columns`` sums stays in registers over the whole of k. Rows that do not fill a
tile run in tiles of half the height and then singly; columns of the last panel that do not exist are
computed (the weights there are zero) and not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from adapass.codegen.tvm.kernels.kernel import (
    Body,
    Ending,
    Floats,
    Kernel,
    Load,
    Reference,
    Vectors,
    build,
    finish,
    finished,
)
from adapass.codegen.tvm.kernels.maths import Expr, real

ROWS_AT_ONCE = 48
"""Rows that one task of the thread pool takes: their x and one panel of weights stay in the second cache."""
Tile = Callable[[Expr, int], None]
"""Computes a number of rows from a first one on."""


def panel_columns(columns: int, vectors: Vectors) -> int:
    """Columns of one panel: no wider than there are, in whole registers."""
    return min(vectors.columns, -(-columns // vectors.lanes) * vectors.lanes)


def packed(weight: Floats, width: int) -> Floats:
    """[k, n] in panels, [n / width, k, width], zero where there is no column."""
    k, n = weight.shape
    panels = -(-n // width)
    wide = np.zeros((k, panels * width), np.float32)
    wide[:, :n] = weight
    return np.ascontiguousarray(wide.reshape(k, panels, width).transpose(1, 0, 2))


@cache
def row_product(k: int, n: int, endings: tuple[Ending, ...], vectors: Vectors) -> Kernel:
    """X [m, k], packed weights, what the endings read ([n] or [m, n]) -> [m, n]; m is symbolic."""
    words = "".join(f"_{ending}" for ending in endings)
    name = f"product_{k}x{n}{words}"

    def write(body: Body) -> None:
        _row_product(body, k, n, endings, vectors)

    return Kernel(name, build(name, write), _row_reference(n, endings))


@cache
def batch_product(vectors: Vectors) -> Kernel:
    """X [b, m, k] @ w [b, k, n] -> [b, m, n], all dimensions symbolic."""

    def write(body: Body) -> None:
        _batch_product(body, vectors)

    return Kernel("batch_product", build("batch_product", write), _batch_reference)


def _row_reference(n: int, endings: Sequence[Ending]) -> Reference:
    def compute(x: Floats, weight: Floats, *extras: Floats) -> Floats:
        panels, k, width = weight.shape
        plain = weight.transpose(1, 0, 2).reshape(k, panels * width)[:, :n]
        return finished(x @ plain, endings, extras)

    return compute


def _batch_reference(x: Floats, weight: Floats) -> Floats:
    return np.asarray(np.matmul(x, weight), np.float32)


def _row_product(body: Body, k: int, n: int, endings: Sequence[Ending], vectors: Vectors) -> None:
    width = panel_columns(n, vectors)
    panels = -(-n // width)
    m = body.symbol("m")
    x = body.argument("x", (m, k))
    weight = body.argument("w", (panels, k, width))
    extras = [
        body.argument(f"e{i}", (m, n) if ending is Ending.ADD else (n,))
        for i, ending in enumerate(e for e in endings if e.reads)
    ]
    y = body.argument("y", (m, n))
    chunks = (m + (ROWS_AT_ONCE - 1)) // ROWS_AT_ONCE
    with body.parallel(chunks * panels) as task:
        panel, first = task // chunks, task % chunks * ROWS_AT_ONCE

        def ended(sums: Any, i: Expr, j: Expr, row: Expr) -> None:
            column = panel * width + j
            value = finish(sums[i, j], endings, _loads(endings, extras, row + i, column))
            body.store(y, value, row + i, column)

        def tile(row: Expr, rows: int) -> None:
            sums = body.local(rows, width)
            body.fill(sums, rows, width)
            with body.serial(k) as kk, body.unroll(rows) as i, body.vector(width) as j:
                body.store(sums, sums[i, j] + x[row + i, kk] * weight[panel, kk, j], i, j)
            _store(body, rows, width, n - panel * width, n % width, lambda i, j: ended(sums, i, j, row))

        rows_of(body, first, body.least(m - first, ROWS_AT_ONCE), vectors.rows, tile)


def _loads(endings: Sequence[Ending], extras: Sequence[Any], row: Expr, column: Expr) -> list[Load]:
    reading = [ending for ending in endings if ending.reads]
    return [_load(e, b, row, column) for e, b in zip(reading, extras, strict=True)]


def _load(ending: Ending, buffer: Any, row: Expr, column: Expr) -> Load:
    return lambda: buffer[row, column] if ending is Ending.ADD else buffer[column]


def rows_of(body: Body, first: Expr, count: Expr, height: int, tile: Tile) -> None:
    """``count`` rows from ``first`` on, in as few tiles as possible."""
    with body.serial(count // height) as i:
        tile(first + i * height, height)
    start, rest = first + count // height * height, count % height
    half = height // 2
    with body.serial(rest // half) as i:
        tile(start + i * half, half)
    with body.serial(rest % half) as i:
        tile(start + rest // half * half + i, 1)


def _store(
    body: Body, rows: int, width: int, left: Expr, ragged: int, end: Callable[[Expr, Expr], None]
) -> None:
    """Store a tile; ``left`` columns exist from its first on. ``ragged`` is zero when all panels are full."""
    if not ragged:
        with body.unroll(rows) as i, body.vector(width) as j:
            end(i, j)
        return
    with body.t.If(left >= width):
        with body.t.Then(), body.unroll(rows) as i, body.vector(width) as j:
            end(i, j)
        with body.t.Else(), body.unroll(rows) as i, body.serial(body.least(left, width)) as j:
            end(i, j)


def _batch_product(body: Body, vectors: Vectors) -> None:
    width = 2 * vectors.lanes
    b, m, k, n = (body.symbol(name) for name in "bmkn")
    x = body.argument("x", (b, m, k))
    weight = body.argument("w", (b, k, n))
    y = body.argument("y", (b, m, n))
    panels = (n + (width - 1)) // width
    with body.parallel(b * panels) as task:
        batch, column = task // panels, task % panels * width
        left = n - column

        def tiles(read: Callable[[Expr, Expr], Expr]) -> None:
            def tile(row: Expr, rows: int) -> None:
                sums = body.local(rows, width)
                body.fill(sums, rows, width)
                with body.serial(k) as kk, body.unroll(rows) as i, body.vector(width) as j:
                    body.store(sums, sums[i, j] + x[batch, row + i, kk] * read(kk, j), i, j)

                def end(i: Expr, j: Expr) -> None:
                    body.store(y, sums[i, j], batch, row + i, column + j)

                _store(body, rows, width, left, 1, end)

            rows_of(body, m * 0, m, 2 * (vectors.rows // 2), tile)

        with body.t.If(left >= width):
            with body.t.Then():
                tiles(lambda kk, j: weight[batch, kk, column + j])
            with body.t.Else():
                # Columns that do not fill a register are copied once, with zeros behind them.
                panel = body.scratch(k, width)
                with body.serial(k) as kk:
                    with body.vector(width) as j:
                        body.store(panel, real(0.0), kk, j)
                    with body.serial(left) as j:
                        body.store(panel, weight[batch, kk, column + j], kk, j)
                tiles(lambda kk, j: panel[kk, j])
