"""Sliding windows: padding rules that convolutions and pools share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adapass.twin.torch_import import Tensor, functional


@dataclass(frozen=True, slots=True)
class Window:
    """One kernel, one entry an axis in each field."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    """Padding behind, without what ``ceil_mode`` adds."""
    beyond: tuple[int, ...]
    """What ``ceil_mode`` adds behind the padding, so that the last window is whole."""

    @property
    def symmetric(self) -> bool:
        return self.begins == self.ends and not any(self.beyond)


def window(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Window:
    """The window over an image of ``size``, with ONNX's rules for what is left out."""
    rank = len(size)
    steps = tuple(strides or (1,) * rank)
    spread = tuple(dilations or (1,) * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((math.ceil(n / s) - 1) * s + r - n, 0) for n, s, r in zip(size, steps, reach, strict=True)
        ]
        less = tuple(t // 2 for t in total)
        more = tuple(t - t // 2 for t in total)
        begins, ends = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    elif auto_pad == "VALID" or not pads:
        begins = ends = (0,) * rank
    else:
        begins, ends = tuple(pads[:rank]), tuple(pads[rank:])
    beyond = tuple(
        _beyond(n, b, e, s, r) if ceil_mode else 0
        for n, b, e, s, r in zip(size, begins, ends, steps, reach, strict=True)
    )
    return Window(tuple(kernel), steps, spread, begins, ends, beyond)


def _beyond(size: int, begin: int, end: int, stride: int, reach: int) -> int:
    """A window that would start behind the image and its padding is left out."""
    count = math.ceil((size + begin + end - reach) / stride) + 1
    if (count - 1) * stride >= size + begin:
        count -= 1
    return max((count - 1) * stride + reach - size - begin - end, 0)


def padded(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` with its last axes padded; negative padding cuts."""
    if not any(begins) and not any(ends):
        return x
    pairs = [n for b, e in reversed(list(zip(begins, ends, strict=True))) for n in (b, e)]
    return functional.pad(x, pairs, value=value)


def unfolded(x: Tensor, over: Window) -> Tensor:
    """All windows of a padded image: [N, C, *positions, *kernel], a view."""
    for axis, (k, s, d) in enumerate(zip(over.kernel, over.strides, over.dilations, strict=True)):
        x = x.unfold(2 + axis, (k - 1) * d + 1, s)[..., ::d]
    return x
