"""Operators that move, repeat, cut or measure, and those that make tensors from sizes.

Sizes arrive as tensors and are read when the operator runs: what was dynamic stays dynamic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.twin.dtypes import integers, torch_type
from adapass.twin.torch_import import Tensor, functional, torch


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def reshape(
    x: Tensor,
    target: Tensor | None = None,
    *,
    shape: Sequence[int] | None = None,
    allowzero: int = 0,
) -> Tensor:
    wanted = list(shape or ()) if target is None else integers(target)
    if not allowzero:
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    at = axis % x.ndim if axis < 0 else axis
    rows = 1
    for n in x.shape[:at]:
        rows *= n
    columns = 1
    for n in x.shape[at:]:
        columns *= n
    return x.reshape(rows, columns)


def squeeze(x: Tensor, where: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    listed = axes if where is None else integers(where)
    return x.squeeze() if listed is None else x.squeeze(tuple(listed))


def unsqueeze(x: Tensor, where: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    listed = list(axes or ()) if where is None else integers(where)
    rank = x.ndim + len(listed)
    for axis in sorted(a % rank for a in listed):
        x = x.unsqueeze(axis)
    return x


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.ndim))))


def concat(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


def split(
    x: Tensor,
    sizes: Tensor | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
    outputs: int,
) -> Tensor:
    if sizes is not None or split is not None:
        listed = list(split or ()) if sizes is None else integers(sizes)
        return x.split(listed, axis) if outputs > 1 else x.split(listed, axis)[0]
    parts = num_outputs or outputs
    each = -(-x.shape[axis] // parts)
    listed = [each] * (parts - 1)
    pieces = x.split([*listed, x.shape[axis] - each * (parts - 1)], axis)
    return pieces if outputs > 1 else pieces[0]


def slice_(
    x: Tensor,
    begin: Tensor | None = None,
    end: Tensor | None = None,
    where: Tensor | None = None,
    steps: Tensor | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    first = list(starts or ()) if begin is None else integers(begin)
    last = list(ends or ()) if end is None else integers(end)
    along = (
        (list(axes) if axes is not None else list(range(len(first)))) if where is None else integers(where)
    )
    by = [1] * len(first) if steps is None else integers(steps)
    for start, stop, axis, step in zip(first, last, along, by, strict=True):
        x = _sliced(x, axis, start, stop, step)
    return x


def _sliced(x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    extent = x.shape[axis]
    if step < 0:
        kept = list(range(extent))[slice(start, None if stop < -extent else stop, step)]
        return x.index_select(axis, torch.tensor(kept, dtype=torch.int64))
    low, high, _ = slice(start, stop).indices(extent)
    cut = x.narrow(axis, low, max(high - low, 0))
    return cut if step == 1 else cut[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]


def pad(
    x: Tensor,
    amounts: Tensor | None = None,
    value: Tensor | None = None,
    where: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
) -> Tensor:
    """``pads`` is where opset 2 has the amounts; a fill value other than 0 came as an attribute then."""
    around = list(pads or ()) if amounts is None else integers(amounts)
    axes = list(range(len(around) // 2)) if where is None else [a % x.ndim for a in integers(where)]
    half = len(axes)
    if mode == "constant":
        flat = [0] * (2 * x.ndim)
        for i, axis in enumerate(axes):
            flat[2 * (x.ndim - 1 - axis)], flat[2 * (x.ndim - 1 - axis) + 1] = around[i], around[half + i]
        fill = 0 if value is None else value.item()
        return functional.pad(x, flat, value=fill)
    for i, axis in enumerate(axes):
        x = _extended(x, axis, around[i], around[half + i], mode)
    return x


def _extended(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    extent = x.shape[axis]
    place = torch.arange(-before, extent + after)
    if mode == "edge":
        place = place.clamp(0, extent - 1)
    elif mode == "wrap":
        place = place % extent
    else:
        period = max(2 * (extent - 1), 1)
        place = place % period
        place = torch.where(place >= extent, period - place, place)
    return x.index_select(axis, place)


def expand(x: Tensor, target: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(integers(target))))


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


def constant_of_shape(target: Tensor, *, value: Tensor | None = None) -> Tensor:
    wanted = integers(target)
    return torch.zeros(wanted) if value is None else value.reshape(()).expand(wanted).clone()


def range_(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int | None = None) -> Tensor:
    del stash_type
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else torch_type(dtype)
    ones = torch.ones(x.shape, dtype=torch.int64)
    return (torch.triu(ones, k) * torch.tril(ones, k)).to(kind)


def triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        blocks = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b * b, h // b, w // b)


def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    place = torch.arange(moved.shape[1]).expand(moved.shape[0], -1)
    ends = lengths.reshape(-1, 1)
    order = torch.where(place < ends, ends - 1 - place, place)
    rows = torch.arange(moved.shape[0]).unsqueeze(1)
    return moved[rows, order].movedim((0, 1), (batch_axis, time_axis))


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Shape": shape,
    "Size": size,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "Unsqueeze": unsqueeze,
}
