"""Convolutions of images: every shift of the padded image is one vector load, so nothing is gathered.

The image is copied once into rows of padded width (and, with a stride, into one plane a phase, so that
neighbours of the result are neighbours in memory). With the result laid out in rows of the same width,

    y[o, p] = sum over c, i, j of  w[o, c, i, j] * x[c, p + shift(i, j)]

holds for all positions ``p`` at once, and only the copy to the result drops the columns that are padding.
A tile of ``channels`` x ``positions`` sums stays in registers over all of c, i, j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from adapass.codegen.tvm.kernels.kernel import (
    Body,
    Ending,
    Floats,
    Kernel,
    Load,
    Vectors,
    build,
    finish,
    finished,
)
from adapass.codegen.tvm.kernels.maths import Expr, real

POSITIONS_AT_ONCE = 256
"""Of the result, about, for one task of the thread pool."""
MAX_SPELLED = 25


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution without the sizes of its images."""

    channels: int
    filters: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    """Top, left, bottom, right."""

    def result(self, height: Expr, width: Expr) -> tuple[Expr, Expr]:
        top, left, bottom, right = self.pads
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        down, over = self.stride
        return (height + (top + bottom - reach[0] - 1)) // down + 1, (
            width + (left + right - reach[1] - 1)
        ) // over + 1

    @property
    def name(self) -> str:
        numbers = (self.channels, self.filters, self.groups, *self.kernel)
        return "_".join(map(str, (*numbers, *self.stride, *self.dilation, *self.pads)))


def tile_channels(shape: Shape, vectors: Vectors) -> int:
    return min(vectors.channels, shape.filters // shape.groups)


def packed(weight: Floats, shape: Shape, tile: int) -> Floats:
    """[filters, c, i, j] in tiles of filters, [groups * tiles, c * i * j, tile]."""
    own = shape.filters // shape.groups
    tiles = -(-own // tile)
    depth = weight[0].size
    wide = np.zeros((shape.groups, tiles * tile, depth), np.float32)
    wide[:, :own] = weight.reshape(shape.groups, own, depth)
    split = wide.reshape(shape.groups * tiles, tile, depth)
    return np.ascontiguousarray(split.transpose(0, 2, 1))


@cache
def convolution(
    shape: Shape, size: tuple[int | None, int | None], endings: tuple[Ending, ...], vectors: Vectors
) -> Kernel:
    """X [n, c, h, w], packed weights, what the endings read ([o] or like the result) -> [n, o, h', w'].

    Sizes of images that are ``None`` are symbolic, as the batch always is.
    """
    words = "".join(f"_{ending}" for ending in endings)
    sizes = "x".join("any" if each is None else str(each) for each in size)
    name = f"convolution_{shape.name}_{sizes}{words}"

    def write(body: Body) -> None:
        _Writer(body, shape, size, endings, vectors).write()

    def compute(x: Floats, weight: Floats, *extras: Floats) -> Floats:
        wide = [e.reshape(-1, 1, 1) if e.ndim == 1 else e for e in extras]
        return finished(_convolved(x, weight, shape), endings, wide)

    return Kernel(name, build(name, write), compute)


def _convolved(x: Floats, weight: Floats, shape: Shape) -> Floats:
    (down, over), (high, wide) = shape.stride, shape.kernel
    top, left, bottom, right = shape.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = shape.result(*x.shape[2:])
    own, depth = shape.filters // shape.groups, shape.channels // shape.groups
    plain = weight.transpose(0, 2, 1).reshape(shape.groups, -1, depth, high, wide)[:, :own]
    y = np.zeros((len(x), shape.groups, own, rows, columns), np.float32)
    grouped = padded.reshape(len(x), shape.groups, depth, *padded.shape[2:])
    for i in range(high):
        for j in range(wide):
            first, second = i * shape.dilation[0], j * shape.dilation[1]
            part = grouped[
                :, :, :, first : first + rows * down : down, second : second + columns * over : over
            ]
            y += np.einsum("ngcrs,gfc->ngfrs", part[..., :rows, :columns], plain[..., i, j])
    return y.reshape(len(x), shape.filters, rows, columns)


class _Writer:
    """Emits one kernel: the copy of the images, then the tiles."""

    def __init__(
        self,
        body: Body,
        shape: Shape,
        size: tuple[int | None, int | None],
        endings: Sequence[Ending],
        vectors: Vectors,
    ) -> None:
        self.body, self.shape, self.endings, self.vectors = body, shape, tuple(endings), vectors
        self.tile = tile_channels(shape, vectors)
        self.depth = shape.channels // shape.groups
        self.n = body.symbol("n")
        self.height, self.width = (
            body.symbol(name) if each is None else each for name, each in zip("hw", size, strict=True)
        )
        self.rows, self.columns = shape.result(self.height, self.width)
        top, left, bottom, right = shape.pads
        down, over = shape.stride
        self.wide = (self.width + (left + right + over - 1)) // over
        """Columns of a row in memory, padding included."""
        self.high = (self.height + (top + bottom + down - 1)) // down
        self.plane = self.high * self.wide
        self.phases = down * over
        self.spelled = shape.kernel[0] * shape.kernel[1] <= MAX_SPELLED and None not in size
        """Whether every tap is written out. With symbolic sizes TVM simplifies that for minutes."""

    def write(self) -> None:
        body, shape = self.body, self.shape
        x = body.argument("x", (self.n, shape.channels, self.height, self.width))
        tiles = -(-(shape.filters // shape.groups) // self.tile)
        self.taps = self.depth * shape.kernel[0] * shape.kernel[1]
        weight = body.argument("w", (shape.groups * tiles, self.taps, self.tile))
        result = (self.n, shape.filters, self.rows, self.columns)
        extras = [
            body.argument(f"e{i}", result if ending is Ending.ADD else (shape.filters,))
            for i, ending in enumerate(e for e in self.endings if e.reads)
        ]
        y = body.argument("y", result)
        at_once = body.least(body.most(POSITIONS_AT_ONCE // self.wide, 1), self.rows)
        # What the last tile reads behind the last image is never stored, but has to be memory.
        reach = (shape.kernel[0] * shape.dilation[0] + at_once + 1) * self.wide + 2 * self.vectors.positions
        padded = body.scratch(self.n * shape.channels * self.phases * self.plane + reach)
        self._copy(x, padded)
        self._tiles(padded, weight, extras, y, at_once, tiles)

    def _copy(self, x: Any, padded: Any) -> None:
        body, (down, over), (top, left, _, _) = self.body, self.shape.stride, self.shape.pads
        with body.parallel(self.n * self.shape.channels) as image:
            n, c = image // self.shape.channels, image % self.shape.channels
            for phase in range(self.phases):
                below, beside = phase // over, phase % over
                start = (image * self.phases + phase) * self.plane
                with body.serial(self.high) as r:
                    row = r * down + (below - top)
                    line = start + r * self.wide
                    with body.serial(self.wide) as q:
                        body.store(padded, real(0.0), line + q)
                    # Columns first <= q < last of this phase lie in the image.
                    first = max(0, -(-(left - beside) // over))
                    last = body.least((self.width + (left - beside + over - 1)) // over, self.wide)
                    with body.when(body.both(row >= 0, row < self.height)), body.serial(last - first) as q:
                        value = x[n, c, row, (q + first) * over + (beside - left)]
                        body.store(padded, value, line + first + q)

    def _tiles(
        self, padded: Any, weight: Any, extras: Sequence[Any], y: Any, at_once: Expr, tiles: int
    ) -> None:
        body, shape, step = self.body, self.shape, self.vectors.positions
        chunks = (self.rows + (at_once - 1)) // at_once
        blocks = shape.groups * tiles
        with body.parallel(self.n * chunks * blocks) as task:
            n, chunk, block = task // (chunks * blocks), task // blocks % chunks, task % blocks
            group = block // tiles
            first_row = chunk * at_once
            count = (at_once * self.wide + (step - 1)) // step
            sums = body.scratch(self.tile, count * step)
            image = (n * shape.channels + group * self.depth) * self.phases * self.plane
            with body.serial(count) as part:
                acc = body.local(self.tile, step)
                body.fill(acc, self.tile, step)
                start = image + first_row * self.wide + part * step
                self._sum(padded, weight, acc, block, start)
                with body.unroll(self.tile) as i, body.vector(step) as j:
                    body.store(sums, acc[i, j], i, part * step + j)
            filters = shape.filters // shape.groups
            with body.unroll(self.tile) as i:
                own = block % tiles * self.tile + i
                with (
                    body.when(own < filters),
                    body.serial(body.least(self.rows - first_row, at_once)) as r,
                    body.serial(self.columns) as q,
                ):
                    at = (n, group * filters + own, first_row + r, q)
                    value = finish(sums[i, r * self.wide + q], self.endings, self._loads(extras, at))
                    body.store(y, value, *at)

    def _sum(self, padded: Any, weight: Any, acc: Any, block: Expr, start: Expr) -> None:
        body, shape = self.body, self.shape
        high, wide = shape.kernel
        with body.serial(self.depth) as c:
            channel = start + c * (self.phases * self.plane)

            def tap(i: Expr, j: Expr) -> None:
                place = channel + self._shift(i, j)
                with body.unroll(self.tile) as o, body.vector(self.vectors.positions) as p:
                    factor = weight[block, c * (high * wide) + (i * wide + j), o]
                    body.store(acc, acc[o, p] + factor * padded[place + p], o, p)

            if self.spelled:
                for i, j in np.ndindex(high, wide):
                    tap(i, j)
            else:
                with body.serial(high) as i, body.serial(wide) as j:
                    tap(i, j)

    def _shift(self, i: Expr, j: Expr) -> Expr:
        """From a position of the result to what tap ``i, j`` multiplies."""
        down, over = self.shape.stride
        row, column = i * self.shape.dilation[0], j * self.shape.dilation[1]
        phase = row % down * over + column % over
        return phase * self.plane + (row // down) * self.wide + column // over

    def _loads(self, extras: Sequence[Any], at: tuple[Expr, ...]) -> list[Load]:
        reading = [ending for ending in self.endings if ending.reads]
        return [_load(e, b, at) for e, b in zip(reading, extras, strict=True)]


def _load(ending: Ending, buffer: Any, at: tuple[Expr, ...]) -> Load:
    return lambda: buffer[at] if ending is Ending.ADD else buffer[at[1]]
