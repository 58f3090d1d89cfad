"""Move outliers of activations into weights (Xiao et al. 2022, SmoothQuant, arXiv:2211.10438).

    s = max|x|^alpha / max|w|^(1 - alpha)       one number a channel; x / s is read by w * s

``x / s`` has flatter channels than ``x``, so one scale for all of them rounds less; ``w * s`` is rounded with
one scale an output channel and bears it. What both roundings do to the products together is predicted from
how the channels spread on calibration data:

    noise (s) = step(x / s)^2 / 12 * |w s|^2  +  sum of E[(x / s)^2] * (rounding error of w s)^2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.errors import DataError
from adapass.execution import Session
from adapass.passes.quantize.fitting import spread
from adapass.passes.quantize.ranges import LEVELS
from adapass.passes.quantize.rescaling.links import Doubles, Link, Read


class Migrate(StrEnum):
    """Whether outliers of activations move into weights."""

    AUTO = "auto"
    """Where that leaves clearly less noise."""
    ALWAYS = "always"
    NEVER = "never"


ALPHAS = (0.3, 0.5, 0.7, 0.85, 1.0)
WORTH_IT = 0.5
"""Unasked, a link is only rescaled when that leaves at most this share of the predicted noise."""
LARGEST = 1e6
Rounded = Callable[[ir.Node, npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""The weight of a product as it will be after rounding."""


@dataclass(slots=True)
class Spread:
    """What the channels of an activation were seen to be."""

    low: Doubles
    high: Doubles
    squares: Doubles = field(init=False)
    rows: int = 0

    def __post_init__(self) -> None:
        self.squares = np.zeros_like(self.low)

    def add(self, rows: Doubles) -> None:
        """Count rows [N, C]."""
        np.minimum(self.low, rows.min(axis=0, initial=0.0), out=self.low)
        np.maximum(self.high, rows.max(axis=0, initial=0.0), out=self.high)
        self.squares += np.square(rows).sum(axis=0)
        self.rows += len(rows)

    @property
    def largest(self) -> Doubles:
        return np.maximum(-self.low, self.high)

    @property
    def mean_square(self) -> Doubles:
        return self.squares / max(self.rows, 1)


def watch_channels(
    model: ir.Model, links: Sequence[Link], data: Samples, *, samples: int
) -> Mapping[str, Spread]:
    """What the channels of every value that the links' products read were, on evenly spaced samples."""
    if len(data) == 0:
        raise DataError("the data has no samples to watch activations on; give at least one")
    reads = {read.value: (read, link.channels) for link in links for read in link.reads}
    found = {name: Spread(np.zeros(count), np.zeros(count)) for name, (_, count) in reads.items()}
    session = Session(model, outputs=list(reads)) if reads else None
    for index in spread(len(data), samples if session is not None else 0):
        results = session.run(data.feeds(index)) if session is not None else {}
        for name, (read, count) in reads.items():
            rows = _rows(results[name], read, count)
            found[name].add(rows[np.isfinite(rows).all(axis=1)])
    return found


def migrating_scale(
    link: Link, seen: Mapping[str, Spread], rounded: Rounded, alpha: float | None
) -> Doubles | None:
    """What to divide the channels by; ``None`` where that is not worth it.

    ``alpha=None`` tries several and takes the best, if it leaves clearly less noise than nothing does.
    """
    if alpha is not None:
        return _scale(link, seen, alpha)
    plain = _noise(link, seen, np.ones(link.channels), rounded)
    tried = [_scale(link, seen, each) for each in ALPHAS]
    noises = [_noise(link, seen, scale, rounded) for scale in tried]
    best = int(np.argmin(noises))
    return tried[best] if noises[best] < WORTH_IT * plain else None


def _scale(link: Link, seen: Mapping[str, Spread], alpha: float) -> Doubles:
    values = np.max([seen[read.value].largest for read in link.reads], axis=0)
    weights = np.max([read.slot.largest(read.slot.array, link.channels) for read in link.reads], axis=0)
    live = (values > 0.0) & (weights > 0.0)
    logarithms = np.zeros(link.channels)
    logarithms[live] = alpha * np.log(values[live]) - (1.0 - alpha) * np.log(weights[live])
    if live.any():
        logarithms[live] -= logarithms[live].mean()  # what all channels share changes nothing
    return np.clip(np.exp(logarithms), 1.0 / LARGEST, LARGEST)


def _noise(link: Link, seen: Mapping[str, Spread], scale: Doubles, rounded: Rounded) -> float:
    total = 0.0
    for read in link.reads:
        found = seen[read.value]
        step = float((found.high / scale).max() - (found.low / scale).min()) / LEVELS
        weight = (read.slot.array * scale[read.slot.channels]).astype(np.float32)
        error = np.square(rounded(read.slot.node, weight).astype(np.float64) - weight)
        power = float(np.square(weight, dtype=np.float64).sum())
        total += step**2 / 12.0 * power
        total += float((found.mean_square / scale**2 * read.slot.sums(error, link.channels)).sum())
    return total


def _rows(array: Array, read: Read, count: int) -> Doubles:
    """[positions, channels]; a run of entries of one channel are positions too."""
    ends = tuple(range(-len(read.axes), 0))
    last = np.moveaxis(array, read.axes, ends).astype(np.float64)
    flat = last.reshape(-1, count, read.repeat)
    return flat.transpose(0, 2, 1).reshape(-1, count)
