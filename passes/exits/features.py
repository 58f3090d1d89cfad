"""Pooled features of a cut: what a head looks at, as ordinary ONNX nodes.

    parts (joined by +)   from                     width
    mean                  tokens, images           C     mean over unmasked tokens, or over the image
    class-token           tokens                   C     the first token
    max                   tokens, images           C     maximum over unmasked tokens, or over the image
    std                   images                   C     standard deviation over the image
    grid2, grid4, grid8   images                   C*n*n  mean of each of n x n tiles
    raw                   vectors                  C     the value itself

Pooled by the graph's own nodes, the features a head is fitted on are the ones it sees when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.analyses.cut_points import CutPoint, Layout
from adapass.errors import UsageError
from adapass.passes.exits.nodes import Builder

MAX_WIDTH = 4096
"""Widest feature vector a head may read: beyond it a few thousand samples no longer determine the weights."""
LOWEST = np.float32(-3.4e38)

PARTS: Mapping[Layout, tuple[str, ...]] = MappingProxyType(
    {
        Layout.TOKENS: ("mean", "class-token", "max"),
        Layout.IMAGE: ("mean", "std", "max", "grid2", "grid4", "grid8"),
        Layout.VECTOR: ("raw",),
    }
)
AUTOMATIC: Mapping[Layout, tuple[str, ...]] = MappingProxyType(
    {
        Layout.TOKENS: ("class-token", "mean", "mean+class-token"),
        Layout.IMAGE: ("mean+std+max", "grid2+std+max", "grid4+std+max"),
        Layout.VECTOR: ("raw",),
    }
)
"""What ``features=auto`` tries, cheapest first."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cut with what its features need to know."""

    cut: CutPoint
    height: int | None = None
    width: int | None = None
    """Size of the image, ``None`` where it is symbolic or there is none."""
    mask: str | None = None
    """Value ``[B, T]``, often a graph input, that is 0 or false for padding; ``None`` where there is none."""

    def width_of(self, features: str) -> int | None:
        """Length of the feature vector, ``None`` where the features do not exist at this cut."""
        parts = features.split("+")
        if self.cut.channels is None or any(p not in PARTS[self.cut.layout] for p in parts):
            return None
        tiles = [self._tiles(part) for part in parts]
        return None if 0 in tiles else self.cut.channels * sum(tiles)

    def offered(self, wanted: str) -> tuple[str, ...]:
        """The feature vectors to try for the option ``wanted``; empty when none exists here."""
        candidates = AUTOMATIC[self.cut.layout] if wanted == "auto" else (wanted,)
        return tuple(f for f in candidates if (width := self.width_of(f)) is not None and width <= MAX_WIDTH)

    def _tiles(self, part: str) -> int:
        if not part.startswith("grid"):
            return 1
        side = int(part[4:])
        sizes = (self.height, self.width)
        return side * side if all(size is not None and size >= side for size in sizes) else 0


def check_features(text: str) -> None:
    """Refuse a value of the option ``features`` that no layout knows.

    Raises:
        UsageError: a part is unknown, or the parts belong to different layouts.

    """
    parts = text.split("+")
    if text != "auto" and not any(all(p in known for p in parts) for known in PARTS.values()):
        known = "; ".join(f"{layout.value}: {', '.join(names)}" for layout, names in PARTS.items())
        raise UsageError(
            f"insert-exits: features '{text}' are unknown; join parts of one layout with + ({known})"
        )


def pooled(build: Builder, site: Site, features: str) -> ir.Value:
    """Nodes that compute ``features`` at ``site``: float32 ``[B, F]``."""
    makers = _MAKERS[site.cut.layout]
    parts = [makers[part](build, site) for part in features.split("+")]
    return parts[0] if len(parts) == 1 else build.op("Concat", *parts, axis=1)


def tokens_first(build: Builder, site: Site) -> ir.Value:
    """The cut as float32 ``[B, T, C]``."""
    cut = site.cut
    return _arranged(build, cut, [cut.batch_axis, cut.token_axis or 0, cut.channel_axis])


def token_weights(build: Builder, site: Site) -> ir.Value | None:
    """float32 ``[B, 1, T]``, 1 for a token and 0 for padding; ``None`` without a mask."""
    if site.mask is None:
        return None
    return build.once(
        f"mask of {site.mask}", lambda: build.unsqueeze(build.floats(build.value(site.mask or "")), 1)
    )


def _arranged(build: Builder, cut: CutPoint, order: list[int]) -> ir.Value:
    value = build.floats(build.value(cut.value))
    if order == sorted(order):
        return value
    return build.once(f"arranged {cut.value}", lambda: build.op("Transpose", value, perm=order))


def _token_mean(build: Builder, site: Site) -> ir.Value:
    tokens, weights = tokens_first(build, site), token_weights(build, site)
    if weights is None:
        return build.reduce("ReduceMean", tokens, (1,))
    share = build.once(f"share of {site.mask}", lambda: _shares(build, weights))
    return build.squeeze(build.op("MatMul", share, tokens), 1)


def _shares(build: Builder, weights: ir.Value) -> ir.Value:
    count = build.reduce("ReduceSum", weights, (2,), keep=True)
    return build.op("Div", weights, build.op("Max", count, build.constant(np.float32(1.0))))


def _class_token(build: Builder, site: Site) -> ir.Value:
    return build.op("Gather", tokens_first(build, site), build.constant(np.int64(0)), axis=1)


def _token_max(build: Builder, site: Site) -> ir.Value:
    tokens, weights = tokens_first(build, site), token_weights(build, site)
    if weights is None:
        return build.reduce("ReduceMax", tokens, (1,))
    column = build.once(f"column of {site.mask}", lambda: build.op("Transpose", weights, perm=[0, 2, 1]))
    kept = build.op("Greater", column, build.constant(np.float32(0.0)))
    return build.reduce("ReduceMax", build.op("Where", kept, tokens, build.constant(LOWEST)), (1,))


def _image(build: Builder, site: Site) -> ir.Value:
    cut = site.cut
    rest = [axis for axis in range(4) if axis not in (cut.batch_axis, cut.channel_axis)]
    return _arranged(build, cut, [cut.batch_axis, cut.channel_axis, *rest])


def _image_mean(build: Builder, site: Site) -> ir.Value:
    image = _image(build, site)
    return build.once(f"mean of {site.cut.value}", lambda: build.reduce("ReduceMean", image, (2, 3)))


def _image_std(build: Builder, site: Site) -> ir.Value:
    image = _image(build, site)
    mean = _image_mean(build, site)
    power = build.reduce("ReduceMean", build.op("Mul", image, image), (2, 3))
    variance = build.op("Sub", power, build.op("Mul", mean, mean))
    return build.op("Sqrt", build.op("Max", variance, build.constant(np.float32(0.0))))


def _image_max(build: Builder, site: Site) -> ir.Value:
    return build.reduce("ReduceMax", _image(build, site), (2, 3))


def _grid(side: int) -> Callable[[Builder, Site], ir.Value]:
    def make(build: Builder, site: Site) -> ir.Value:
        sizes = (site.height or side, site.width or side)
        strides = [size // side for size in sizes]
        kernel = [size - (side - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
        tiles = build.op("AveragePool", _image(build, site), kernel_shape=kernel, strides=strides)
        return build.op("Flatten", tiles, axis=1)

    return make


def _raw(build: Builder, site: Site) -> ir.Value:
    return _arranged(build, site.cut, [site.cut.batch_axis, site.cut.channel_axis])


_MAKERS: Mapping[Layout, Mapping[str, Callable[[Builder, Site], ir.Value]]] = MappingProxyType(
    {
        Layout.TOKENS: {"mean": _token_mean, "class-token": _class_token, "max": _token_max},
        Layout.IMAGE: {
            "mean": _image_mean,
            "std": _image_std,
            "max": _image_max,
            "grid2": _grid(2),
            "grid4": _grid(4),
            "grid8": _grid(8),
        },
        Layout.VECTOR: {"raw": _raw},
    }
)
