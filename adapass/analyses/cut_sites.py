"""CutSites: the cuts chosen from the sweep, with axes and side values; ``CutPoints`` adds the blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from math import prod
from typing import Self

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.channels import channel_axis
from adapass.analyses.cuts import Cut, needed_by, side_spans, sweep
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.analyses.side_values import SideValues, is_learned
from adapass.analyses.work import Work
from adapass.facts import Fact, FactCache


class Layout(StrEnum):
    """How the axes of a cut value are arranged; the site names each axis."""

    TOKENS = "tokens"
    """[B, T, C] (or [B, C, T] between one-dimensional convolutions)."""
    IMAGE = "image"
    """[B, C, H, W] (or [B, H, W, C] where channels are normalised last)."""
    VECTOR = "vector"
    """[B, C]"""


LAYOUTS = {2: Layout.VECTOR, 3: Layout.TOKENS, 4: Layout.IMAGE}


@dataclass(frozen=True, slots=True)
class CutSite:
    """A cut point without its block; fields as in ``CutPoint``."""

    position: int
    """The node of ``Dataflow.nodes`` after which it lies."""
    value: str
    side_values: tuple[str, ...]
    layout: Layout
    batch_axis: int
    token_axis: int | None
    channel_axis: int
    channels: int | None
    depth: float


@dataclass(frozen=True, slots=True)
class CutSites(Fact):
    """In execution order."""

    sites: tuple[CutSite, ...]
    refusals: tuple[tuple[str, str], ...]
    needed: tuple[int, ...] = field(repr=False)
    """Per node, the main node with which it runs: decides on which side of a cut it lies."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow, main = facts.get(Dataflow), facts.get(SideValues).main
        cuts, misses = sweep(flow, main)
        look = _Look(flow, facts.get(Shapes), facts.get(Axes))
        refusals = {name_of(miss.value): _crossing_reason(miss.count) for miss in misses}
        chosen: list[Cut] = []
        learned = sum(is_learned(flow, index) for index in main)
        cuts = [cut for cut in cuts if cut.gap < learned]  # behind the last learned layer nothing is saved
        for _, neighbours in groupby(cuts, key=lambda cut: cut.gap):
            group = list(neighbours)
            fitting = [cut for cut in group if look.objection(cut.value) is None]
            if fitting:
                chosen.append(look.last_alike(fitting))
            else:
                refusals[name_of(group[-1].value)] = look.objection(group[-1].value) or ""
        needed = needed_by(flow, main)
        spans = side_spans(flow, main, needed)
        flops = [part.flops for part in facts.get(Work).typical]
        everything = max(1, sum(flops))
        sites: list[CutSite] = []
        for cut in chosen:
            done = sum(count for count, when in zip(flops, needed, strict=True) if when <= cut.position)
            crossing = tuple(name_of(value) for value in spans.crossing(cut.position))
            sites.append(look.describe(cut, crossing, done / everything))
        return cls(tuple(sites), tuple(refusals.items()), needed)


def _crossing_reason(count: int) -> str:
    return "two values cross here" if count == 2 else "several values cross here"


def _keeps(first: tuple[int, ...], later: tuple[int, ...]) -> bool:
    """Whether ``later`` is the same activation, perhaps pooled or laid out as tokens, but not summed up."""
    return _extended(later) >= min(3, _extended(first)) and prod(later) * 8 >= prod(first)


def _extended(shape: tuple[int, ...]) -> int:
    return sum(1 for size in shape if size > 1)


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    shapes: Shapes
    axes: Axes

    def objection(self, value: ir.Value) -> str | None:
        """Why an exit could not read ``value``; ``None`` when it can."""
        name = name_of(value)
        dims = self.shapes.of(name)
        if dims is None:
            return "the shape is not known"
        if not self.shapes.is_float(name):
            return "the value is not floating point"
        if self.axes.batch_axis(name) is None:
            return "the value has no axis with one entry per sample"
        if len(dims) not in LAYOUTS:
            return "the value is neither tokens nor an image nor a vector"
        return None

    def last_alike(self, group: list[Cut]) -> Cut:
        """The last of neighbours that still has what the first has: before pooling to a vector."""
        first = self._shape(group[0].value)
        return [cut for cut in group if _keeps(first, self._shape(cut.value))][-1]

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        return self.shapes.at(name_of(value), 7, 7) or ()

    def describe(self, cut: Cut, crossing: tuple[str, ...], depth: float) -> CutSite:
        name = name_of(cut.value)
        dims = self.shapes.of(name) or ()
        batch = self.axes.batch_axis(name) or 0
        channel = channel_axis(self.flow, cut.value, len(dims), batch)
        free = [axis for axis in range(len(dims)) if axis not in (batch, channel)]
        channels = dims[channel]
        return CutSite(
            position=cut.position,
            value=name,
            side_values=crossing,
            layout=LAYOUTS[len(dims)],
            batch_axis=batch,
            token_axis=free[0] if len(dims) == 3 else None,
            channel_axis=channel,
            channels=None if channels.batch or channels.tokens or channels.both else int(channels.constant),
            depth=depth,
        )
