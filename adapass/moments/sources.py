"""Sources: how a value of a model becomes rows of numbers, one row a position (pixel, token, sample).

    x [B, T, C]        channels on axis 2  ->  B * T rows of C numbers, padding positions left out
    x [B, C, H, W]     channels on axis 1  ->  B * H * W rows of C numbers
    x [B, C, H, W]     read by a 3 x 3 convolution  ->  B * H' * W' rows of C * 9 numbers, in the order of
                       the convolution's weight: row @ weight.reshape(M, -1).T is its output

Two sources with equally many positions a sample have equal positions in equal rows, whatever is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import ModelError

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry with which a convolution reads; one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Begins, then ends, as ONNX writes them."""
    auto_pad: str = "NOTSET"

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and behind each spatial axis of these sizes."""
        rank = len(self.kernel)
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        if self.auto_pad == "NOTSET":
            return [(self.pads[i], self.pads[rank + i]) for i in range(rank)]
        found: list[tuple[int, int]] = []
        for size, kernel, stride, dilation in zip(
            sizes, self.kernel, self.strides, self.dilations, strict=True
        ):
            total = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return found


@dataclass(frozen=True, slots=True)
class Source:
    """Rows taken from a value."""

    value: str
    axis: int
    """The channel axis."""
    window: Window | None = None
    """Patches that a convolution reads, instead of single positions. The value is [B, C, ...] then."""
    channels: tuple[int, int] | None = None
    """First and last + 1 of the channels, where not all are wanted (a group of a convolution)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a value has its samples and tokens; ``None`` where unknown."""

    batch_axis: int | None
    token_axis: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a batch count."""

    indices: tuple[int, ...]
    """Number of each sample in the data set. What a batch holds beyond them is filling."""
    mask: npt.NDArray[np.bool_] | None
    """[B, T], true where a token is real."""
    rows_each: int | None
    """Most rows a sample; ``None`` for all."""


def window_of(node: ir.Node, kernel: Sequence[int]) -> Window:
    """The window of a ``Conv`` whose weight is [M, C / group, *kernel]."""
    rank = len(kernel)
    ones = (1,) * rank
    read = node.attributes.get_ints
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    return Window(
        tuple(int(size) for size in kernel),
        tuple(read("strides", ones) or ones),
        tuple(read("dilations", ones) or ones),
        tuple(read("pads", (0,) * (2 * rank)) or (0,) * (2 * rank)),
        auto_pad,
    )


def take_rows(array: Array, source: Source, layout: Layout, selection: Selection) -> Doubles:
    """The chosen rows, [N, width], ready for exact sums.

    Raises:
        ModelError: the value has another rank than the source expects.

    """
    return stored_rows(array, source, layout, selection).astype(np.float64)


def stored_rows(array: Array, source: Source, layout: Layout, selection: Selection) -> Floats:
    """The same in the precision the value has, at least single: half the bytes to move.

    Raises:
        ModelError: the value has another rank than the source expects.

    """
    if array.dtype.kind != "f" or array.ndim < 2 or not -array.ndim <= source.axis < array.ndim:
        raise ModelError(
            f"value '{source.value}' has shape {list(array.shape)} and type {array.dtype}; "
            f"floats with channels on axis {source.axis} and samples expected"
        )
    found = (
        _positions(array, source, layout, selection)
        if source.window is None
        else _patches(array, source, source.window, selection)
    )
    return found.astype(np.promote_types(found.dtype, np.float32), copy=False)


def _positions(array: Array, source: Source, layout: Layout, selection: Selection) -> Array:
    axis = source.axis % array.ndim
    spread = _by_sample(array, axis, layout, selection)
    if source.channels is not None:
        spread = spread[..., slice(*source.channels)]
    real = _real(array, axis, layout, selection)
    names, places = _names_of(spread, selection), spread.shape[1:-1]
    if real is None:
        return _taken(spread, _evenly(names, math.prod(places), selection.rows_each))
    flat = spread.reshape(-1, spread.shape[-1])
    return flat[_real_rows(names, real.shape[1], np.packbits(real).tobytes(), selection.rows_each)]


def _taken(spread: Array, picked: Integers) -> Array:
    """Places [samples, rows] of [samples, *places, channels] as [samples * rows, channels]."""
    places = spread.shape[1:-1]
    if picked.shape[1] == math.prod(places):
        return spread.reshape(-1, spread.shape[-1])
    samples = np.arange(len(spread), dtype=np.int64)[:, None]
    rows: Array = spread[(samples, *np.unravel_index(picked, places))]
    return rows.reshape(-1, spread.shape[-1])


def _names_of(positions: Array, selection: Selection) -> tuple[int, ...]:
    """One number for each row of ``positions``; all in one where the samples cannot be told apart."""
    return selection.indices if len(positions) == len(selection.indices) else (0,)


def _by_sample(array: Array, axis: int, layout: Layout, selection: Selection) -> Array:
    """[samples, *positions, channels]; one "sample" holds all where they are not told apart."""
    count = len(selection.indices)
    if layout.batch_axis is not None and layout.batch_axis != axis:
        return np.moveaxis(array, (layout.batch_axis, axis), (0, -1))[:count]
    last = np.moveaxis(array, axis, -1)
    batch = _batch_size(selection)
    if last.shape[0] % batch == 0 and axis != 0:
        return last.reshape(batch, -1, last.shape[-1])[:count]
    return last.reshape(1, -1, last.shape[-1])


def _batch_size(selection: Selection) -> int:
    return len(selection.indices) if selection.mask is None else selection.mask.shape[0]


def _real(array: Array, axis: int, layout: Layout, selection: Selection) -> npt.NDArray[np.bool_] | None:
    """[samples, positions]: which positions hold a real token; ``None`` where all do."""
    mask = selection.mask
    if mask is None or mask.all():
        return None
    count = len(selection.indices)
    batch_axis, token_axis = layout.batch_axis, layout.token_axis
    if batch_axis is not None and token_axis is not None and len({axis, batch_axis, token_axis}) == 3:
        if array.shape[token_axis] != mask.shape[1]:
            return None
        shape = [1] * array.ndim
        shape[batch_axis], shape[token_axis] = mask.shape
        ordered = mask if batch_axis < token_axis else mask.T
        spread = np.broadcast_to(ordered.reshape(shape), array.shape)
        flat = np.moveaxis(spread, (batch_axis, axis), (0, -1))[..., 0]
        return flat.reshape(len(flat), -1)[:count]
    rows = math.prod(size for place, size in enumerate(array.shape) if place != axis)
    return mask[:count] if rows == mask.size else None


@lru_cache(maxsize=256)
def _real_rows(names: tuple[int, ...], positions: int, packed: bytes, rows_each: int | None) -> Integers:
    """Evenly spaced places among the real ones of each sample, as rows of all samples below each other.

    The same for every value with a row for each token, so each batch is looked at once.
    """
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=len(names) * positions)
    chosen: list[Integers] = []
    for place, index in enumerate(names):
        real = np.flatnonzero(bits[place * positions : (place + 1) * positions])
        chosen.append(real[_evenly((index,), len(real), rows_each)[0]] + place * positions)
    rows = np.concatenate(chosen)
    rows.setflags(write=False)
    return rows


def _evenly(indices: Sequence[int], positions: int, rows_each: int | None) -> Integers:
    """[samples, rows], rising: evenly spaced places, beginning elsewhere for every sample."""
    if rows_each is None or positions <= rows_each:
        return np.broadcast_to(np.arange(positions, dtype=np.int64), (len(indices), positions))
    starts = (np.modf(np.asarray(indices, np.float64) * GOLDEN)[0] * positions).astype(np.int64)
    steps = np.arange(rows_each, dtype=np.int64) * positions // rows_each
    return np.sort((starts[:, None] + steps) % positions, axis=1)


def _patches(array: Array, source: Source, window: Window, selection: Selection) -> Array:
    rank = len(window.kernel)
    if array.ndim != rank + 2:
        raise ModelError(
            f"value '{source.value}' has shape {list(array.shape)}; {rank} spatial axes expected"
        )
    images = array[: len(selection.indices)]
    images = images if source.channels is None else images[:, slice(*source.channels)]
    padding = window.padding(array.shape[2:])
    if any(before or behind for before, behind in padding):
        images = np.pad(images, [(0, 0), (0, 0), *padding])
    spans = tuple((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(images, spans, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, stride) for stride in window.strides)
    taps = tuple(slice(None, None, dilation) for dilation in window.dilations)
    views = views[(slice(None), slice(None), *steps, *taps)]
    places = views.shape[2 : 2 + rank]
    picked = _evenly(selection.indices, math.prod(places), selection.rows_each)
    samples = np.arange(len(picked), dtype=np.int64)[:, None]
    channels_last = np.moveaxis(views, 1, 1 + rank)  # what is picked comes first, then channels, then taps
    patches: Array = channels_last[(samples, *np.unravel_index(picked, places))]
    return patches.reshape(picked.size, -1)
