"""CutPoints: the values after which an exit can sit.

x -> [embed] -> e -> [block] -> v1 -> [block] -> v2 -> [pool, classify] -> y
                      mask ---------------^ a side value of v1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.blocks import Blocks
from adapass.analyses.cut_sites import CutSite, CutSites, Layout
from adapass.facts import Fact, FactCache

__all__ = ["CutPoint", "CutPoints", "Layout"]


@dataclass(frozen=True, slots=True)
class CutPoint:
    """One place to leave the model."""

    value: str
    side_values: tuple[str, ...]
    """Everything else that crosses from before to after, graph inputs included, in execution order."""
    layout: Layout
    batch_axis: int
    token_axis: int | None
    channel_axis: int
    channels: int | None
    """``None`` when the number of channels is symbolic."""
    depth: float
    """Share of the model's work done once the value is known, 0 to 1."""
    block: int | None
    """The block that ends here (see ``Blocks``); ``None`` inside a block or outside of all."""


@dataclass(frozen=True, slots=True)
class CutPoints(Fact):
    """In execution order."""

    points: tuple[CutPoint, ...]
    refusals: tuple[tuple[str, str], ...]
    """(value, reason) for places between learned layers that are nearly cuts."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        found = facts.get(CutSites)
        block_ending_at = {block.exit: block.index for block in facts.get(Blocks).blocks}
        return cls(
            tuple(_point(site, block_ending_at.get(site.value)) for site in found.sites), found.refusals
        )


def _point(site: CutSite, block: int | None) -> CutPoint:
    return CutPoint(
        value=site.value,
        side_values=site.side_values,
        layout=site.layout,
        batch_axis=site.batch_axis,
        token_axis=site.token_axis,
        channel_axis=site.channel_axis,
        channels=site.channels,
        depth=site.depth,
        block=block,
    )
