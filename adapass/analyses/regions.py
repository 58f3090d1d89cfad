"""Regions: the pieces between consecutive cut points, with what they read, write and cost.

A region holds main nodes, and what measures the sizes of their results. What other side nodes compute
(masks, positions) enters it from outside, so that the first layer, which needs the mask first, equals
all later layers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.analyses.cut_sites import CutSites
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.analyses.side_values import SideValues
from adapass.analyses.structure_keys import Keys
from adapass.analyses.work import NodeWork, Work
from adapass.facts import Fact, FactCache


@dataclass(frozen=True, slots=True)
class Region:
    """The nodes between two cut points, or between one and an end of the model."""

    index: int
    nodes: tuple[int, ...]
    """Positions in ``Dataflow.nodes``, in execution order."""
    entry: str | None
    """The cut value it starts from; ``None`` at the start of the model."""
    exit: str | None
    """The cut value it ends with; ``None`` at the end of the model."""
    inputs: tuple[str, ...]
    """Everything non-constant it reads, the entry first."""
    outputs: tuple[str, ...]
    """Everything others read, the exit first."""
    work: NodeWork
    """At the typical sizes; ``Work.of(region.nodes, batch, tokens)`` gives others."""
    kind: str
    """Equal for regions of the same operators, whatever the sizes."""
    structure: str
    """Equal for regions of the same operators, attributes and sizes: they take the same time."""
    content: str
    """Equal when the weights are equal too: they compute the same."""


@dataclass(frozen=True, slots=True)
class Regions(Fact):
    """In execution order: one more than there are cut points."""

    regions: tuple[Region, ...]
    side_nodes: tuple[int, ...]
    """Live nodes in no region."""

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        del model
        flow, found = facts.get(Dataflow), facts.get(CutSites)
        cut = _Cutter(flow, facts.get(Shapes), facts.get(Work))
        cuts = [None, *(site.value for site in found.sites), None]
        home = homes(flow, facts.get(SideValues).main, found)
        members: list[list[int]] = [[] for _ in cuts[1:]]
        for node, place in enumerate(home):
            if place is not None:
                members[place].append(node)
        regions = tuple(
            cut.region(place, nodes, *cuts[place : place + 2]) for place, nodes in enumerate(members)
        )
        return cls(regions, tuple(node for node, place in enumerate(home) if place is None))


def homes(flow: Dataflow, main: frozenset[int], found: CutSites) -> list[int | None]:
    """The region of each node. A side node has one when it measures a main value there and is used there."""
    ends = [site.position for site in found.sites]
    latest: list[int] = []
    home: list[int | None] = []
    for index in range(len(flow.nodes)):
        sources = [before if before in main else latest[before] for before in flow.graph.predecessors(index)]
        latest.append(max(sources, default=-1))
        place = bisect_left(ends, index if index in main else found.needed[index])
        local = index in main or (latest[index] >= 0 and bisect_left(ends, latest[index]) == place)
        home.append(place if local else None)
    return home


class _Cutter:
    def __init__(self, flow: Dataflow, shapes: Shapes, work: Work) -> None:
        self._flow = flow
        self._work = work
        self._kind = Keys(flow, shapes, sizes=False, weights=False)
        self._structure = Keys(flow, shapes, sizes=True, weights=False)
        self._content = Keys(flow, shapes, sizes=True, weights=True)

    def region(self, index: int, nodes: list[int], entry: str | None, end: str | None) -> Region:
        inputs, outputs = self._inputs(nodes, entry), self._outputs(nodes, end)
        return Region(
            index=index,
            nodes=tuple(nodes),
            entry=entry,
            exit=end,
            inputs=inputs,
            outputs=outputs,
            work=self._work.of(nodes),
            kind=self._kind.piece(nodes, inputs, outputs),
            structure=self._structure.piece(nodes, inputs, outputs),
            content=self._content.piece(nodes, inputs, outputs),
        )

    def _inputs(self, nodes: list[int], entry: str | None) -> tuple[str, ...]:
        own = frozenset(nodes)
        read = [value for index in nodes for value in self._flow.reads[index]]
        names = [name_of(value) for value in read if self._flow.producer.get(value) not in own]
        return tuple(dict.fromkeys([entry, *names] if entry is not None and entry in names else names))

    def _outputs(self, nodes: list[int], end: str | None) -> tuple[str, ...]:
        own = frozenset(nodes)
        made = [value for index in nodes for value in self._flow.nodes[index].outputs]
        names = [
            name_of(value)
            for value in made
            if value in self._flow.outputs
            or any(reader not in own for reader in self._flow.readers.get(value, ()))
        ]
        return tuple(dict.fromkeys([end, *names] if end is not None else names))
