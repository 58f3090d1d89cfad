"""Residual branches: what a model adds to a stream that also goes around it.

    y = Add(x, f(x))      x, or a cheap view of it, is the stream; all that only f needs is the branch

A branch without learned layers is no layer (an embedding plus its position), and a sum of which both sides
are equally long has no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from adapass.analyses.attention import AttentionCores
from adapass.analyses.axes import Axes
from adapass.analyses.channels import channel_axis
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.analyses.side_values import SideValues, is_learned
from adapass.analyses.work import Work
from adapass.budgeted import Refusal
from adapass.facts import FactCache
from adapass.rewrite import Reject

CARRYING = frozenset(
    {"Relu", "LayerNormalization", "RMSNormalization", "Identity", "Cast", "Dropout", "Clip"}
)
"""What may lie between two additions of one stream without making it another."""
NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
RANKS = (2, 3, 4)


class Part(StrEnum):
    """What a branch is."""

    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    PRODUCTS = "products"


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch of the main graph, by its nodes and the names of its values."""

    site: str
    """The result of its last learned layer."""
    part: Part
    add: ir.Node
    place: int
    """Which input of ``add`` is the stream; the other one is the branch."""
    axis: int
    """The channel axis of the stream."""
    channels: int
    rank: int
    """Number of axes of the stream."""
    dtype: ir.DataType
    nodes: tuple[ir.Node, ...]
    """Everything that runs for this branch alone, in execution order."""
    products: tuple[ir.Node, ...]
    """The learned layers among them."""

    @property
    def stream(self) -> ir.Value:
        value = self.add.inputs[self.place]
        assert value is not None  # checked when it was found
        return value

    @property
    def result(self) -> ir.Value:
        """What the branch computes."""
        value = self.add.inputs[1 - self.place]
        assert value is not None  # checked when it was found
        return value

    @property
    def sum(self) -> ir.Value:
        return self.add.outputs[0]

    @property
    def is_image(self) -> bool:
        """Whether channels come before pixels."""
        return self.axis == 1 and self.rank > 2

    @property
    def norm(self) -> ir.Node | None:
        """The normalisation that alone reads the sum: the block is post-norm."""
        readers = [use.node for use in self.sum.uses()]
        if len(readers) != 1 or self.sum.is_graph_output() or readers[0].op_type not in NORMS:
            return None
        return readers[0]


def find_branches(model: ir.Model, facts: FactCache) -> tuple[tuple[Branch, ...], tuple[Refusal, ...]]:
    """All branches in execution order, and the additions of two computed values that are none."""
    look = _Look.of(facts)
    branches: list[Branch] = []
    refusals: list[Refusal] = []
    for index in sorted(look.main):
        node = look.flow.nodes[index]
        if node.op_type != "Add" or node.domain != "" or not look.adds_two(index):
            continue
        try:
            branches.append(look.branch(index))
        except Reject as reason:
            refusals.append(Refusal(name_of(node.outputs[0]), str(reason)))
    del model
    return tuple(branches), tuple(refusals)


def chains(branches: Sequence[Branch]) -> tuple[tuple[Branch, ...], ...]:
    """Branches of one stream in a row, with nothing but ``CARRYING`` nodes between their additions."""
    found: list[list[Branch]] = []
    last: dict[ir.Value, list[Branch]] = {}
    for branch in branches:
        chain = last.pop(carried_from(branch.stream), None)
        if chain is None:
            chain = list[Branch]()
            found.append(chain)
        chain.append(branch)
        last[branch.sum] = chain
    return tuple(tuple(chain) for chain in found)


def carried_from(value: ir.Value) -> ir.Value:
    """The value a stream comes from, before activations and normalisations."""
    while (node := value.producer()) is not None and node.op_type in CARRYING and node.domain == "":
        source = node.inputs[0]
        if source is None:
            return value
        value = source
    return value


@dataclass(frozen=True, slots=True)
class _Look:
    flow: Dataflow
    shapes: Shapes
    axes: Axes
    work: Work
    main: frozenset[int]
    attending: frozenset[int]

    @classmethod
    def of(cls, facts: FactCache) -> _Look:
        cores = facts.get(AttentionCores).cores
        return cls(
            facts.get(Dataflow),
            facts.get(Shapes),
            facts.get(Axes),
            facts.get(Work),
            facts.get(SideValues).main,
            frozenset(node for core in cores for node in core.nodes),
        )

    def adds_two(self, index: int) -> bool:
        """Whether a node adds two values that are computed from the content of the inputs."""
        return sum(1 for value in self.flow.reads[index] if self.flow.producer.get(value) in self.main) == 2

    def branch(self, index: int) -> Branch:
        add = self.flow.nodes[index]
        own = [self._only_for(add, place) for place in (0, 1)]
        if not own[0] and not own[1]:
            raise Reject("both sides of the addition run for others as well")
        work = [self.work.of(nodes).flops for nodes in own]
        place = 0 if work[1] > work[0] else 1
        nodes = own[1 - place]
        products = [node for node in nodes if is_learned(self.flow, node)]
        if not products:
            raise Reject("nothing learned is added to the stream")
        if work[0] == work[1]:
            raise Reject("both sides of the addition take equally long: neither is the stream")
        stream, sum_ = name_of(add.inputs[place]), name_of(add.outputs[0])
        self._check(add, place, nodes)
        batch = self.axes.batch_axis(stream)
        dims = self.shapes.of(sum_) or ()
        if len(dims) not in RANKS or batch is None:
            raise Reject("the stream is neither tokens nor an image nor a vector")
        axis = channel_axis(self.flow, add.outputs[0], len(dims), batch)
        if dims[axis].batch or dims[axis].tokens or dims[axis].both:
            raise Reject("the number of channels is not fixed")
        return Branch(
            site=name_of(self.flow.nodes[products[-1]].outputs[0]),
            part=self._part(nodes),
            add=add,
            place=place,
            axis=axis,
            channels=int(dims[axis].constant),
            rank=len(dims),
            dtype=self.shapes.dtypes[stream],
            nodes=tuple(self.flow.nodes[node] for node in nodes),
            products=tuple(self.flow.nodes[node] for node in products),
        )

    def _check(self, add: ir.Node, place: int, nodes: Sequence[int]) -> None:
        stream, result = name_of(add.inputs[place]), name_of(add.inputs[1 - place])
        shapes = [self.shapes.of(name) for name in (stream, result, name_of(add.outputs[0]))]
        if shapes[0] is None or shapes[0] != shapes[1] or shapes[0] != shapes[2]:
            raise Reject("the stream and what is added to it differ in shape")
        if not self.shapes.is_float(stream):
            raise Reject("the stream is not floating point")
        if not self._comes_from_the_stream(add, place, nodes):
            raise Reject("what is added is not computed from the stream")

    def _only_for(self, add: ir.Node, place: int) -> list[int]:
        """Nodes that run for one input of ``add`` alone, in execution order."""
        value = add.inputs[place]
        if value is None or value not in self.flow.producer or value in self.flow.outputs:
            return []
        if len(value.uses()) != 1:
            return []
        found = {self.flow.producer[value]}
        for index in range(self.flow.producer[value] - 1, -1, -1):
            outputs = self.flow.nodes[index].outputs
            readers = [reader for made in outputs for reader in self.flow.readers.get(made, ())]
            kept = any(made in self.flow.outputs for made in outputs)
            if readers and not kept and all(reader in found for reader in readers):
                found.add(index)
        return sorted(found)

    def _comes_from_the_stream(self, add: ir.Node, place: int, nodes: Sequence[int]) -> bool:
        own = frozenset(nodes)
        read = {value for index in nodes for value in self.flow.reads[index]}
        outside = {value for value in read if self.flow.producer.get(value) not in own}
        stream = add.inputs[place]
        assert stream is not None  # both inputs are computed
        if stream in outside:
            return True
        before = self.flow.ancestors(stream)
        return any(self.flow.producer.get(value) in before & self.main for value in outside)

    def _part(self, nodes: Sequence[int]) -> Part:
        if any(node in self.attending for node in nodes):
            return Part.ATTENTION
        convolved = any(self.flow.nodes[node].op_type == "Conv" for node in nodes)
        return Part.CONVOLUTION if convolved else Part.PRODUCTS
