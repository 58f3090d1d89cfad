"""Convolutions and what undoes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.twin.dtypes import integers
from adapass.twin.operators.windows import padded, window
from adapass.twin.torch_import import Tensor, functional, torch

_CONVOLVE: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSE: Final = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """``kernel_shape`` repeats the shape of the weight."""
    del kernel_shape
    over = window(
        x.shape[2:], weight.shape[2:], strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    convolution = _CONVOLVE[x.ndim - 2]
    if over.symmetric:
        return convolution(x, weight, bias, over.strides, over.begins, over.dilations, group)
    wide = padded(x, over.begins, over.ends)
    return convolution(wide, weight, bias, over.strides, 0, over.dilations, group)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Computed without padding, then cut (or grown) to what the padding leaves."""
    del kernel_shape
    rank = x.ndim - 2
    steps, spread = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    extra = tuple(output_padding or (0,) * rank)
    full = _TRANSPOSE[rank](x, weight, bias, steps, 0, 0, group, spread)
    # Rows that no input reaches still carry the bias.
    grown = tuple(size + add for size, add in zip(full.shape[2:], extra, strict=True))
    if output_shape is not None:
        total = [size - wanted for size, wanted in zip(grown, output_shape[-rank:], strict=True)]
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [size - n * s for size, n, s in zip(grown, x.shape[2:], steps, strict=True)]
    else:
        around = tuple(pads or (0,) * (2 * rank))
        return _cut(full, bias, extra, around[:rank], around[rank:])
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    begins, ends = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    return _cut(full, bias, extra, begins, ends)


def _cut(
    full: Tensor, bias: Tensor | None, extra: Sequence[int], begins: Sequence[int], ends: Sequence[int]
) -> Tensor:
    after = [add - end for add, end in zip(extra, ends, strict=True)]
    before = [-begin for begin in begins]
    if bias is None or not any(n > 0 for n in (*after, *before)):
        return padded(full, before, after)
    level = bias.reshape(-1, *(1,) * (full.ndim - 2))
    return padded(full - level, before, after) + level


def fold(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Col2Im of images: a block of columns is added where it came from."""
    size, kernel = integers(image_shape), integers(block_shape)
    rank = len(size)
    over = window(size, kernel, strides=strides, dilations=dilations, pads=pads)
    wide = [n + b + e for n, b, e in zip(size, over.begins, over.ends, strict=True)]
    channels = x.shape[1] // _product(kernel)
    where = torch.arange(_product(wide)).reshape(1, 1, *wide)
    for axis, (k, s, d) in enumerate(zip(over.kernel, over.strides, over.dilations, strict=True)):
        where = where.unfold(2 + axis, (k - 1) * d + 1, s)[..., ::d]
    positions = where.flatten(2 + rank).flatten(2, 1 + rank)[0, 0].t()
    index = positions.reshape(1, 1, -1).expand(x.shape[0], channels, -1)
    flat = x.reshape(x.shape[0], channels, -1)
    image = torch.zeros(x.shape[0], channels, _product(wide), dtype=x.dtype)
    image = image.scatter_add(2, index, flat).reshape(x.shape[0], channels, *wide)
    return padded(image, [-b for b in over.begins], [-e for e in over.ends])


def _product(sizes: Sequence[int]) -> int:
    return int(torch.tensor(sizes).prod())


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "Col2Im": fold,
    "Conv": convolve,
    "ConvTranspose": convolve_transposed,
}
