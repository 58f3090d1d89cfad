"""Blocks: the layers of a model, as pieces between cut points.

An attention region and the feed-forward regions behind it make one block. Elsewhere a region is a block
of its own when it adds to a residual stream or when a neighbour consists of the same operators.

    cut -> [attention] -> cut -> [feed-forward] -> cut        one block of a transformer
    cut -> [conv, relu, conv, add, relu] -> cut               one residual block
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.attention import AttentionCores
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.feed_forward import FeedForwards
from adapass.analyses.regions import Region, Regions
from adapass.analyses.shapes import Shapes
from adapass.analyses.side_values import SideValues
from adapass.facts import Fact, FactCache


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive regions that form one layer."""

    index: int
    regions: tuple[int, ...]
    """Indices in ``Regions.regions``."""
    entry: str
    exit: str
    residual: bool
    """Whether it adds what it computes to what came in."""
    attention: bool
    structure: str
    """Equal for blocks of the same operators, attributes and sizes."""


@dataclass(frozen=True, slots=True)
class Blocks(Fact):
    """In execution order, without overlap."""

    blocks: tuple[Block, ...]
    streams: tuple[tuple[str, ...], ...]
    """Residual streams: values that each contain the one before, added to."""

    @property
    def repeats(self) -> tuple[tuple[int, ...], ...]:
        """Runs of two and more consecutive blocks with the same structure."""
        runs: list[list[int]] = []
        for block in self.blocks:
            same = runs and self.blocks[runs[-1][-1]].structure == block.structure
            if same and self.blocks[runs[-1][-1]].exit == block.entry:
                runs[-1].append(block.index)
            else:
                runs.append([block.index])
        return tuple(tuple(run) for run in runs if len(run) > 1)

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow = facts.get(Dataflow)
        attending = frozenset(node for core in facts.get(AttentionCores).cores for node in core.nodes)
        narrowing = frozenset(part.second for part in facts.get(FeedForwards).parts)
        look = _Look(flow, facts.get(Shapes), facts.get(SideValues).main, attending, narrowing)
        regions = [region for region in facts.get(Regions).regions if region.entry is not None]
        groups = look.group(regions)
        blocks = tuple(look.block(index, group) for index, group in enumerate(groups))
        return cls(blocks, residual_streams(flow, facts.get(SideValues).main))


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    shapes: Shapes
    main: frozenset[int]
    attending: frozenset[int]
    narrowing: frozenset[int]
    """Second products of feed-forward parts."""

    def group(self, regions: list[Region]) -> list[list[Region]]:
        groups: list[list[Region]] = []
        open_block = False
        for place, region in enumerate(regions):
            attends = self._attends(region)
            if open_block and not attends and self._continues(region):
                groups[-1].append(region)
                continue
            open_block = attends and self._ends(region)
            neighbours = regions[max(0, place - 1) : place + 2]
            if open_block or (self._ends(region) and self._stands_alone(region, neighbours)):
                groups.append([region])
        return groups

    def block(self, index: int, group: list[Region]) -> Block:
        return Block(
            index=index,
            regions=tuple(region.index for region in group),
            entry=group[0].entry or "",
            exit=_end(group[-1]),
            residual=any(self._adds(region) for region in group),
            attention=any(self._attends(region) for region in group),
            structure="+".join(region.structure for region in group),
        )

    def _attends(self, region: Region) -> bool:
        return any(node in self.attending for node in region.nodes)

    def _ends(self, region: Region) -> bool:
        """Whether one value leaves the region: at the end of a model there may be none that is a layer's."""
        return region.exit is not None or (len(region.outputs) == 1 and self._same_shape(region))

    def _continues(self, region: Region) -> bool:
        return (
            self._ends(region) and self._adds(region) and any(node in self.narrowing for node in region.nodes)
        )

    def _stands_alone(self, region: Region, neighbours: list[Region]) -> bool:
        return self._adds(region) or sum(1 for other in neighbours if other.kind == region.kind) > 1

    def _same_shape(self, region: Region) -> bool:
        return self.shapes.of(region.entry or "") == self.shapes.of(_end(region))

    def _adds(self, region: Region) -> bool:
        return any(is_residual_add(self.flow, self.main, node) for node in region.nodes)


def _end(region: Region) -> str:
    return region.exit or (region.outputs[0] if region.outputs else "")


def is_residual_add(flow: Dataflow, main: frozenset[int], index: int) -> bool:
    """Whether a node adds two main values: what a block computed and what it was given."""
    if flow.nodes[index].op_type not in ("Add", "Sum"):
        return False
    return sum(1 for value in flow.reads[index] if flow.producer.get(value) in main) > 1


def residual_streams(flow: Dataflow, main: frozenset[int]) -> tuple[tuple[str, ...], ...]:
    """Chains of residual additions, through the activations and normalisations between them."""
    stream_of: dict[ir.Value, list[str]] = {}
    streams: list[list[str]] = []
    for index in sorted(main):
        node = flow.nodes[index]
        carried = [stream_of[value] for value in flow.reads[index] if value in stream_of]
        if is_residual_add(flow, main, index):
            stream = carried[0] if carried else []
            if not carried:
                streams.append(stream)
            stream.append(name_of(node.outputs[0]))
            stream_of[node.outputs[0]] = stream
        elif carried and node.op_type in CARRYING:
            stream_of[node.outputs[0]] = carried[0]
    return tuple(tuple(stream) for stream in streams if len(stream) > 1)


CARRYING = frozenset(
    {
        "Relu",
        "LayerNormalization",
        "RMSNormalization",
        "BatchNormalization",
        "Cast",
        "Identity",
        "Slice",
        "Pad",
        "Clip",
    }
)
