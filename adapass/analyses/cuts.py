"""Where the model can be cut in two: one value crosses, and cheap side values beside it.

The main nodes are swept once in execution order while the values still to be read are counted. After
a node with exactly one such value, everything later depends on the past through that value alone.
Among neighbours between which no learned layer lies, the last of the same shape is the cut: that is
behind the activation or normalisation which every reader shares.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow
from adapass.analyses.side_values import SIZES, is_learned
from adapass.ops import is_bookkeeping


@dataclass(frozen=True, slots=True)
class Cut:
    """``value`` is the only main value alive right after the node at ``position``."""

    position: int
    value: ir.Value
    gap: int
    """Number of learned layers before the cut: equal for neighbours that compute the same thing."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A place between two learned layers where more than one main value crosses."""

    value: ir.Value
    count: int
    gap: int


def sweep(flow: Dataflow, main: frozenset[int]) -> tuple[list[Cut], list[Crossing]]:
    """All positions with one main value alive, and per gap without such a position the nearest miss."""
    order = sorted(main)
    outputs = {value for index in order for value in flow.nodes[index].outputs if not is_bookkeeping(value)}
    left = Counter(value for index in order for value in flow.reads[index] if value in outputs)
    alive: dict[ir.Value, None] = {}
    cuts: list[Cut] = []
    misses: dict[int, Crossing] = {}
    gap = 0
    for index in order:
        gap += is_learned(flow, index)
        _advance(flow, index, left, alive)
        if len(alive) == 1:
            cuts.append(Cut(index, next(iter(alive)), gap))
            misses.pop(gap, None)
        elif alive and not (cuts and cuts[-1].gap == gap):
            _remember(misses, Crossing(flow.nodes[index].outputs[0], len(alive), gap))
    return cuts, [misses[gap] for gap in sorted(misses)]


def _advance(flow: Dataflow, index: int, left: Counter[ir.Value], alive: dict[ir.Value, None]) -> None:
    for value in flow.reads[index]:
        left[value] -= value in left
        if not left[value]:
            alive.pop(value, None)
    for value in flow.nodes[index].outputs:
        if left[value]:
            alive[value] = None


def _remember(misses: dict[int, Crossing], found: Crossing) -> None:
    if found.gap not in misses or found.count <= misses[found.gap].count:
        misses[found.gap] = found


@dataclass(frozen=True, slots=True)
class SideSpans:
    """For every value that may cross beside a cut, the positions between which it does."""

    spans: tuple[tuple[ir.Value, int, int], ...]

    def crossing(self, position: int) -> tuple[ir.Value, ...]:
        """Side values that exist once the node at ``position`` has run and are read later."""
        return tuple(value for value, born, last in self.spans if born <= position < last)


def needed_by(flow: Dataflow, main: frozenset[int]) -> tuple[int, ...]:
    """Per node, the main node with which it runs: the first that needs it.

    The size of a graph input is taken at the start (-1), that of a main value before its last reader is
    done, so that the size crosses later cuts and not the value. ``len(flow.nodes)`` stands for "only an
    output needs it".
    """
    never = len(flow.nodes)
    needed = [never] * never
    for index in reversed(range(never)):
        later = min((needed[after] for after in flow.graph.successors(index)), default=never)
        needed[index] = index if index in main else later
        if flow.nodes[index].op_type in SIZES:
            needed[index] = min(later, _last_read(flow, main, flow.reads[index][0]))
    return tuple(needed)


def _last_read(flow: Dataflow, main: frozenset[int], value: ir.Value) -> int:
    """Until when ``value`` is there to be measured."""
    source = flow.producer.get(value)
    if source is None:
        return -1
    if source not in main:
        return len(flow.nodes)
    return max((reader for reader in flow.readers.get(value, ()) if reader in main), default=source)


def side_spans(flow: Dataflow, main: frozenset[int], needed: tuple[int, ...]) -> SideSpans:
    """A side node runs when the first main node needs it; graph inputs exist from the start."""
    spans: list[tuple[ir.Value, int, int]] = []
    for value in flow.values():
        producer = flow.producer.get(value)
        if producer in main and not is_bookkeeping(value):
            continue
        reads = [needed[reader] for reader in flow.readers.get(value, ())]
        if reads:
            spans.append((value, -1 if producer is None else needed[producer], max(reads)))
    return SideSpans(tuple(spans))
