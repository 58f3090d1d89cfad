"""Cut a rewritten model into the pieces whose latencies are added: sections between exits, layers in them.

The facts about cut points run the model to learn shapes, and want a place where an exit can sit. Pricing
needs neither, only places where few values cross, and it happens thousands of times in a search; so the cut
is made from the dataflow alone. Where precision changes, it follows what runtimes fuse:

    y -> QuantizeLinear -> | DequantizeLinear -> Conv        at the 8-bit value, if nothing else crosses
    y -> | QuantizeLinear -> DequantizeLinear -> MatMul      else in front of both
    y -> | Add

Every node that runs for a feed is in exactly one piece.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.side_values import is_learned
from adapass.analyses.work import stored_bytes
from adapass.cost.piece_keys import describe
from adapass.facts import FactCache
from adapass.graph.edit import constant_tensor
from adapass.graph.extract import extract
from adapass.lowering.exits import find_parts, has_exits, prepare

_COUNTING = frozenset({ir.DataType.INT64, ir.DataType.BOOL})
"""Types of sizes, places and masks: they may cross a cut beside the activation."""
_DTYPES_8BIT = frozenset({ir.DataType.INT8, ir.DataType.UINT8})


@dataclass(frozen=True, slots=True)
class Piece:
    """Nodes that run one after the other and are priced as one."""

    nodes: tuple[int, ...]
    """Positions in the layout's dataflow."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    key: str
    """Equal for pieces that take equally long at equal input shapes."""
    kind: str
    """Equal for pieces of the same operators, whatever the sizes of weights."""
    sizes: tuple[int, ...] = field(repr=False)
    """All sizes of stored constants, whole numbers among the constants and attributes, in a fixed order."""
    share_8bit: float
    """Share of the weights that are stored in 8 bits."""
    weight_bytes: int
    """What it reads of stored weights; a lookup reads next to nothing of its table."""


@dataclass(frozen=True, slots=True)
class Section:
    """What runs between two exits, in order; the head of the exit it leads to is part of it."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A model in pieces. A model without exits has one section."""

    model: ir.Model
    """A copy with exits taken apart: what they return are outputs. Weights are shared with the original."""
    flow: Dataflow
    sections: tuple[Section, ...]
    carried: tuple[tuple[str, ...], ...]
    """For each section, the values it takes from earlier ones."""

    def part(self, pieces: Sequence[Piece]) -> ir.Model:
        """Consecutive pieces of one section as a model of their own."""
        inputs, outputs = joined(pieces, self.flow)
        return extract(self.model, inputs, outputs)


def lay_out(model: ir.Model) -> Layout:
    """Cut ``model`` into sections and pieces.

    Raises:
        ModelError: the exits are not in the form of ``adapass.ops``.

    """
    copy = prepare(model, keep_selects=True)
    if has_exits(copy):
        parts = find_parts(copy).nodes
        _take_exits_apart(copy)
    else:
        parts = (tuple(copy.graph),)
    flow = FactCache(copy).get(Dataflow)
    home = {node: index for index, nodes in enumerate(parts) for node in nodes}
    cutter = _Cutter(flow, _main(flow))
    members: list[list[int]] = [[] for _ in parts]
    for index, node in enumerate(flow.nodes):
        members[home[node]].append(index)
    sections = tuple(Section(cutter.pieces(nodes, first=not k)) for k, nodes in enumerate(members))
    return Layout(copy, flow, sections, tuple(_carried(flow, nodes) for nodes in members))


def joined(pieces: Sequence[Piece], flow: Dataflow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs of consecutive pieces taken together."""
    own = frozenset(node for piece in pieces for node in piece.nodes)
    inputs, outputs = _inputs(flow, sorted(own)), _outputs(flow, sorted(own))
    return inputs, outputs


def _take_exits_apart(model: ir.Model) -> None:
    """Make what exits select from, and who stops, outputs instead of the selection."""
    found = find_parts(model)
    results = [value for exit_ in found.exits for value in (*exit_.taken, exit_.stop)]
    kept = [value for value in model.graph.outputs if value not in found.outputs]
    needed = {node for nodes in found.nodes for node in nodes}
    wanted = dict.fromkeys([*kept, *results, *found.final])
    model.graph.outputs.clear()
    model.graph.outputs.extend(value for value in wanted if value.producer() is not None)
    model.graph.remove([node for node in model.graph if node not in needed], safe=False)


def _main(flow: Dataflow) -> frozenset[int]:
    """Nodes behind a learned layer or a lookup of stored vectors; masks and sizes are left."""
    found: set[int] = set()
    for index in range(len(flow.nodes)):
        inherited = any(before in found for before in flow.graph.predecessors(index))
        if inherited or is_learned(flow, index) or _looks_up(flow, index):
            found.add(index)
    return frozenset(found)


def _looks_up(flow: Dataflow, index: int) -> bool:
    node = flow.nodes[index]
    stored = flow.constants[index]
    return node.op_type == "Gather" and any(v.shape is not None and len(v.shape) > 1 for v in stored)


@dataclass(frozen=True, slots=True)
class _Cutter:
    flow: Dataflow
    main: frozenset[int]

    def pieces(self, nodes: Sequence[int], *, first: bool) -> tuple[Piece, ...]:
        cuts = self._cuts(nodes, first=first)
        groups: list[list[int]] = [[] for _ in range(len(cuts) + 1)]
        for index in nodes:
            groups[bisect_left(cuts, index) if index in self.main else 0].append(index)
        return tuple(self._piece(group) for group in groups if group)

    def _piece(self, nodes: list[int]) -> Piece:
        inputs, outputs = _inputs(self.flow, nodes), _outputs(self.flow, nodes)
        described = describe(self.flow, nodes, inputs, outputs)
        stored = list(dict.fromkeys(value for index in nodes for value in self._weights(index)))
        small = [value for value in stored if value.dtype in _DTYPES_8BIT]
        return Piece(
            tuple(nodes),
            inputs,
            outputs,
            described.key,
            described.kind,
            described.sizes,
            share_8bit=_elements(small) / max(1, _elements(stored)),
            weight_bytes=sum(stored_bytes(value) for value in stored if not _is_table(value)),
        )

    def _weights(self, index: int) -> list[ir.Value]:
        """Stored constants behind a node, through conversions that happen once."""
        found: list[ir.Value] = []
        stack = list(self.flow.constants[index])
        while stack:
            value = stack.pop()
            maker = value.producer()
            if maker is None:
                found.append(value)
            else:
                stack.extend(read for read in maker.inputs if read is not None)
        return [value for value in found if _is_weight(value)]

    def _cuts(self, nodes: Sequence[int], *, first: bool) -> list[int]:
        """Positions after which to cut, at most one between two learned layers."""
        found = self._crossings(nodes)
        learned = sum(is_learned(self.flow, index) for index in nodes)
        inner = [c for c in found if (first or c.gap > 0) and c.gap < learned]
        own = frozenset(nodes)
        chosen = [self._best(list(group), own) for _, group in groupby(inner, key=lambda c: c.gap)]
        return [cut.position for cut in chosen if cut is not None]

    def _crossings(self, nodes: Sequence[int]) -> list[_Crossing]:
        order = [index for index in nodes if index in self.main]
        left = Counter(value for index in order for value in self.flow.reads[index] if self._counts(value))
        own = frozenset(order)
        alive = {value for value in left if self.flow.producer[value] not in own}
        found: list[_Crossing] = []
        gap = 0
        for index in order:
            gap += is_learned(self.flow, index)
            for value in self.flow.reads[index]:
                left[value] -= 1
                if left[value] <= 0:
                    alive.discard(value)
            alive.update(value for value in self.flow.nodes[index].outputs if left[value] > 0)
            if len(alive) == 1 and self.flow.producer[next(iter(alive))] in own:
                found.append(_Crossing(index, next(iter(alive)), gap))
        return found

    def _counts(self, value: ir.Value) -> bool:
        """Whether a value is an activation: sizes and places cross for free."""
        return self.flow.producer.get(value) in self.main and value.dtype not in _COUNTING

    def _best(self, group: list[_Crossing], own: frozenset[int]) -> _Crossing | None:
        quantized = [c for c in group if _maker(c.value) == "QuantizeLinear"]
        if quantized:
            return quantized[-1]
        whole = [c for c in group if _maker(c.value) not in ("DequantizeLinear", "DynamicQuantizeLinear")]
        # What later sections read is where the trunk ends and the head begins.
        going_on = [c for c in whole if not own.issuperset(self.flow.readers.get(c.value, ()))]
        if going_on:
            return going_on[-1]
        rank = max((_rank(c.value) for c in whole), default=0)
        return next((c for c in reversed(whole) if _rank(c.value) == rank), None)


@dataclass(frozen=True, slots=True)
class _Crossing:
    """A place where one activation crosses."""

    position: int
    value: ir.Value
    gap: int
    """Learned layers of the section before it."""


def _is_weight(value: ir.Value) -> bool:
    """Whether a stored constant is a weight: at least one axis, and not structure."""
    return value.shape is not None and len(value.shape) > 0 and value.dtype not in _COUNTING


def _elements(values: Sequence[ir.Value]) -> int:
    tensors = (constant_tensor(value) for value in values)
    return sum(tensor.size for tensor in tensors if tensor is not None)


def _is_table(value: ir.Value) -> bool:
    return all(node.op_type == "Gather" for node, _ in value.uses())


def _maker(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.op_type


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _inputs(flow: Dataflow, nodes: Sequence[int]) -> tuple[str, ...]:
    own = frozenset(nodes)
    read = (value for index in nodes for value in flow.reads[index])
    return tuple(dict.fromkeys(name_of(value) for value in read if flow.producer.get(value) not in own))


def _outputs(flow: Dataflow, nodes: Sequence[int]) -> tuple[str, ...]:
    own = frozenset(nodes)
    made = (value for index in nodes for value in flow.nodes[index].outputs)
    wanted = (
        value
        for value in made
        if value in flow.outputs or any(reader not in own for reader in flow.readers.get(value, ()))
    )
    return tuple(dict.fromkeys(name_of(value) for value in wanted))


def _carried(flow: Dataflow, nodes: Sequence[int]) -> tuple[str, ...]:
    own = frozenset(nodes)
    read = (value for index in nodes for value in flow.reads[index])
    earlier = (v for v in read if v in flow.producer and flow.producer[v] not in own)
    return tuple(dict.fromkeys(name_of(value) for value in earlier))
