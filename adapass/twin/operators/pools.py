"""Pools: the largest, the mean or a norm of every window, or of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.twin.dtypes import integers
from adapass.twin.operators.windows import Window, padded, unfolded, window
from adapass.twin.torch_import import Tensor, functional, torch

_MAX: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN: Final = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> Tensor:
    over = window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    rank = len(kernel_shape)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    wide = padded(x, over.begins, _behind(over), lowest)
    if outputs == 1 and x.is_floating_point():
        return _MAX[rank](wide, over.kernel, over.strides, 0, over.dilations)
    windows = unfolded(wide, over).flatten(2 + rank)
    best, place = windows.max(-1)
    if outputs == 1:
        return best
    return best, _flat_positions(x, over, place, column_major=bool(storage_order))


def _flat_positions(x: Tensor, over: Window, place: Tensor, *, column_major: bool) -> Tensor:
    """Where in the whole tensor each largest element lies."""
    rank = len(over.kernel)
    strides = [1] * rank
    order = range(1, rank) if column_major else range(rank - 2, -1, -1)
    for axis in order:
        neighbour = axis - 1 if column_major else axis + 1
        strides[axis] = strides[neighbour] * x.shape[2 + neighbour]
    position = torch.zeros_like(place)
    remaining = place
    for axis in range(rank - 1, -1, -1):
        inside, remaining = remaining % over.kernel[axis], remaining // over.kernel[axis]
        shape = [1] * place.ndim
        shape[2 + axis] = -1
        start = (torch.arange(place.shape[2 + axis]) * over.strides[axis] - over.begins[axis]).reshape(shape)
        position = position + (start + inside * over.dilations[axis]) * strides[axis]
    images = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *(1,) * rank)
    return position + images * x[0, 0].numel()


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Padding counts only when asked for; what ``ceil_mode`` adds never does."""
    over = window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    wide = padded(x, over.begins, _behind(over))
    if not any((*over.begins, *_behind(over))):
        return _window_mean(wide, over)
    counted = torch.ones_like(x[:1, :1])
    if count_include_pad:
        counted = padded(padded(counted, over.begins, over.ends, 1.0), [0] * len(kernel_shape), over.beyond)
    else:
        counted = padded(counted, over.begins, _behind(over))
    return _window_mean(wide, over) / _window_mean(counted, over)


def _window_mean(x: Tensor, over: Window) -> Tensor:
    rank = len(over.kernel)
    if set(over.dilations) == {1} and rank in _MEAN:
        return _MEAN[rank](x, over.kernel, over.strides)
    return unfolded(x, over).flatten(2 + rank).mean(-1)


def norm_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    p: int = 2,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    over = window(
        x.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    wide = padded(x, over.begins, _behind(over))
    return torch.linalg.vector_norm(unfolded(wide, over).flatten(2 + len(kernel_shape)), p, dim=-1)


def _behind(over: Window) -> tuple[int, ...]:
    return tuple(e + b for e, b in zip(over.ends, over.beyond, strict=True))


def global_mean(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def global_norm(x: Tensor, *, p: int = 2) -> Tensor:
    return torch.linalg.vector_norm(x, p, dim=tuple(range(2, x.ndim)), keepdim=True)


def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Indices count in the tensor the pool would have read; a larger ``output_shape`` pads behind."""
    rank = len(kernel_shape)
    steps = strides or (1,) * rank
    around = pads or (0,) * (2 * rank)
    natural = [
        (n - 1) * s - around[i] - around[rank + i] + k
        for i, (n, s, k) in enumerate(zip(x.shape[2:], steps, kernel_shape, strict=True))
    ]
    shape = [x.shape[0], x.shape[1], *natural]
    flat = torch.zeros(int(torch.tensor(shape).prod()), dtype=x.dtype)
    image = flat.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return image
    wanted = integers(output_shape)[2:]
    return padded(image, [0] * rank, [w - n for w, n in zip(wanted, natural, strict=True)])


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_mean,
    "GlobalLpPool": global_norm,
    "GlobalMaxPool": global_max,
    "LpPool": norm_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
