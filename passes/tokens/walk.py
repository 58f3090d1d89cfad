"""Follow the tokens from one value of the residual stream to where the tokens end, node by node.

    x -> [feed-forward] -> [attention] -> ... -> Gather(axis=1, 0) -> [head]

Fewer tokens may go through a node when it treats every token alike, or when it is an attention, whose
softmax can be told to leave tokens out. Any other node (a mean over tokens, a convolution along them) wants
all of them back: the walk then ends at the last value of the stream before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from adapass.analyses.attention import AttentionCores
from adapass.analyses.axis_rules import Step, follow
from adapass.analyses.dataflow import Dataflow, fixed_shape, name_of
from adapass.analyses.shapes import Dim, Shapes
from adapass.analyses.side_values import SideValues
from adapass.facts import FactCache
from adapass.graph.edit import constant_array
from adapass.graph.tensors import subgraphs_of

SAMPLES, TOKENS = 1009, 2003
"""Sizes at which axes are told apart: primes no model has."""
FOLDED = -1
"""The mark of a value whose first axis counts the tokens of all samples."""

ALIKE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Exp", "Log", "Neg", "Abs", "Reciprocal", "Max",
        "Min", "Gelu", "Relu", "Tanh", "Sigmoid", "Softplus", "HardSigmoid", "HardSwish", "Swish", "Mish",
        "LeakyRelu", "Elu", "Selu", "Celu", "PRelu", "Clip", "Cast", "Identity", "Dropout", "Where", "Not",
        "And", "Or", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Floor", "Round", "Sign",
        "Sin", "Cos", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "LogRound", "IsNaN",
    }
)  # fmt: skip
"""Elementwise: tokens that are not there change nothing for the others. (The scale of
``DynamicQuantizeLinear`` is taken over whoever is there, as it is over a batch.)"""
MOVING = frozenset(
    {
        "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice", "Concat", "Gather",
        "Expand", "Tile", "ScatterRows", "GatherRows",
    }
)  # fmt: skip
PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger"})
ALONG_LAST = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"})
PACKING = frozenset({"LiveRows", "GatherRows", "ScatterRows"})


@dataclass(frozen=True, slots=True)
class Attending:
    """An attention inside a walk."""

    softmax: ir.Node
    """Its first input are the scores of the tokens, keys along the last axis."""


@dataclass(frozen=True, slots=True)
class Read:
    """Something from beside the stream that a node reads, and where in it the tokens lie."""

    node: ir.Node
    slot: int
    value: ir.Value
    axes: tuple[int, ...]
    """Axes of ``value`` along tokens; none where it is a list of sizes."""
    score_axes: tuple[int, ...] = ()
    """Of ``axes``, those along the keys of an attention."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where tokens are wanted back, and why."""

    position: int
    reason: str


@dataclass
class Walk:
    """What was met on the way from ``start``."""

    start: ir.Value
    axes: dict[ir.Value, frozenset[int]] = field(default_factory=dict[ir.Value, frozenset[int]])
    """Of every value with tokens, the axes along them (or ``FOLDED``)."""
    reads: list[Read] = field(default_factory=list[Read])
    attentions: list[Attending] = field(default_factory=list[Attending])
    first_token: bool = False
    """Whether the result is read from the first token."""
    stop: Stop | None = None


class _UnfitError(Exception):
    """A node that wants all tokens; the text says why."""


@dataclass(frozen=True, slots=True)
class Walker:
    """Walks of one model."""

    flow: Dataflow
    shapes: Shapes
    main: frozenset[int]
    softmaxes: frozenset[ir.Node]

    @classmethod
    def of(cls, facts: FactCache) -> Walker:
        flow = facts.get(Dataflow)
        cores = facts.get(AttentionCores).cores
        attending = {flow.nodes[index] for core in cores for index in core.nodes}
        softmaxes = frozenset(node for node in attending if node.op_type == "Softmax")
        return cls(flow, facts.get(Shapes), facts.get(SideValues).main, softmaxes)

    def walk(self, start: ir.Value, token_axis: int, last: int | None = None) -> Walk:
        """Follow the tokens of ``start``, at most to the node at position ``last`` (itself included)."""
        walk = Walk(start)
        walk.axes[start] = frozenset({token_axis})
        for index in sorted(self.main):
            if last is not None and index > last:
                break
            node = self.flow.nodes[index]
            if not any(walk.axes.get(value) for value in self.flow.reads[index]):
                continue
            try:
                self._pass(walk, node)
            except _UnfitError as reason:
                walk.stop = Stop(index, str(reason))
                break
        for value in self.flow.outputs:
            if walk.stop is None and walk.axes.get(value):
                walk.stop = Stop(len(self.flow.nodes), "a result has one row a token")
        return walk

    def _pass(self, walk: Walk, node: ir.Node) -> None:
        if subgraphs_of(node):
            raise _UnfitError("a node with a subgraph reads the tokens")
        arriving = [(slot, value) for slot, value in _given(node) if walk.axes.get(value)]
        found: set[int] = set()
        for slot, value in arriving:
            for axis in walk.axes[value]:
                found |= self._along(walk, node, slot, axis)
        for output in node.outputs:
            walk.axes[output] = frozenset(found)
        if node in self.softmaxes:
            walk.attentions.append(Attending(node))
        for slot, value in _given(node):
            if value not in walk.axes:
                self._note(walk, node, slot, value, found)

    def _along(self, walk: Walk, node: ir.Node, slot: int, axis: int) -> set[int]:
        """Where one axis of tokens goes.

        Raises:
            _UnfitError: tokens are put together other than by an attention.

        """
        kind = node.op_type
        if axis == FOLDED or (node.domain == "adapass" and kind in PACKING):
            return self._folded(node, slot)
        if kind in ALIKE or kind in MOVING or kind in PRODUCTS or kind in ALONG_LAST or kind in REDUCTIONS:
            return self._followed(walk, node, slot, axis)
        if kind == "Softmax":
            return self._softmax(node, axis)
        raise _UnfitError(f"{kind} puts tokens together")

    def _folded(self, node: ir.Node, slot: int) -> set[int]:
        del slot
        if node.op_type in ("LiveRows", "GatherRows"):
            return {FOLDED}
        if node.op_type == "ScatterRows":
            return {1}
        if node.op_type == "Reshape":
            axis = self._unfolded(node)
            return {FOLDED} if axis is None else {axis}
        if node.op_type in ALIKE | PRODUCTS | ALONG_LAST:
            return {FOLDED}
        raise _UnfitError(f"{node.op_type} reads the tokens of all samples at once")

    def _unfolded(self, node: ir.Node) -> int | None:
        dims = self.shapes.of(name_of(node.outputs[0])) or ()
        places = [axis for axis, dim in enumerate(dims) if dim.follows_tokens]
        return places[0] if places else None

    def _followed(self, walk: Walk, node: ir.Node, slot: int, axis: int) -> set[int]:
        inputs = [None if value is None else self._size(value) for value in node.inputs]
        out = self._size(node.outputs[0])
        shape = inputs[slot]
        if out is None or shape is None:
            raise _UnfitError("the shape of a value with tokens is not known")
        if node.op_type in ALONG_LAST and self._first_normalised(node, len(shape)) <= axis:
            raise _UnfitError("a normalisation runs over tokens")
        if node.op_type == "Slice" and self._cuts(node, axis):
            return self._first_only(walk, node)
        found = follow(Step(node, slot, axis, inputs, out))
        if node.op_type == "Concat" and node.attributes.get_int("axis", 0) % len(shape) == axis:
            raise _UnfitError("tokens are appended")
        if node.op_type == "Split" and node.attributes.get_int("axis", 0) % len(shape) == axis:
            raise _UnfitError("tokens are split apart")
        if found is not None:
            return {found}
        if node.op_type == "Gather" and slot == 0:
            return self._read_first(walk, node)
        if node.op_type == "MatMul" and self._mixes_attention(walk, node, slot, axis, len(shape)):
            return set()
        if node.op_type == "Reshape" and self._folds(shape, axis, out):
            return {FOLDED}
        raise _UnfitError(f"{node.op_type} puts tokens together")

    def _first_normalised(self, node: ir.Node, rank: int) -> int:
        return node.attributes.get_int("axis", -1) % rank

    def _cuts(self, node: ir.Node, axis: int) -> bool:
        """Whether a ``Slice`` works along the tokens (or cannot be seen not to)."""
        axes = constant_array(node.inputs[3]) if len(node.inputs) > 3 else None
        shape = self._size(node.inputs[0]) if node.inputs[0] is not None else None
        if axes is None or shape is None:
            return True
        return any(int(each) % len(shape) == axis for each in axes.ravel())

    def _first_only(self, walk: Walk, node: ir.Node) -> set[int]:
        start, end = (constant_array(node.inputs[slot]) for slot in (1, 2))
        if start is None or end is None or start.size != 1 or int(start.ravel()[0]) != 0:
            raise _UnfitError("tokens at fixed positions are read")
        if int(end.ravel()[0]) != 1:
            raise _UnfitError("tokens at fixed positions are read")
        walk.first_token = True
        return set()

    def _read_first(self, walk: Walk, node: ir.Node) -> set[int]:
        index = constant_array(node.inputs[1])
        if index is None or index.size != 1 or int(index.ravel()[0]) != 0:
            raise _UnfitError("tokens at fixed positions are read")
        walk.first_token = True
        return set()

    def _mixes_attention(self, walk: Walk, node: ir.Node, slot: int, axis: int, rank: int) -> bool:
        """Whether keys are summed up here, weighted by a softmax over them."""
        left, right = node.inputs[0], node.inputs[1]
        if left is None or right is None or axis != (rank - 1 if slot == 0 else rank - 2):
            return False
        axes = walk.axes.get(left, frozenset()), walk.axes.get(right, frozenset())
        shape = self._size(left)
        return shape is not None and len(shape) - 1 in axes[0] and bool(axes[1]) and self._weighs(left)

    def _weighs(self, value: ir.Value) -> bool:
        for _ in range(4):
            node = value.producer()
            if node is None:
                return False
            if node.op_type == "Softmax":
                return node in self.softmaxes
            if node.op_type not in ("Cast", "Identity", "Dropout") or node.inputs[0] is None:
                return False
            value = node.inputs[0]
        return False

    def _folds(self, shape: tuple[int, ...], axis: int, out: tuple[int, ...]) -> bool:
        return axis == 1 and shape[0] == SAMPLES and out[:1] == (shape[0] * shape[1],)

    def _softmax(self, node: ir.Node, axis: int) -> set[int]:
        shape = self._size(node.outputs[0])
        along = node.attributes.get_int("axis", -1) % len(shape or (1,))
        if axis == along and node not in self.softmaxes:
            raise _UnfitError("a softmax runs over tokens outside of an attention")
        return {axis}

    def _note(self, walk: Walk, node: ir.Node, slot: int, value: ir.Value, out_axes: set[int]) -> None:
        """Remember what is read beside the tokens and has to follow them."""
        if node.op_type in ("Reshape", "Expand") and slot == 1:
            walk.reads.append(Read(node, slot, value, ()))
            return
        shape, out = self._size(value), self._size(node.outputs[0])
        if shape is None or out is None or FOLDED in out_axes or node.op_type not in ALIKE | {"Concat"}:
            return
        shift = len(out) - len(shape)
        axes = [axis - shift for axis in sorted(out_axes) if axis >= shift]
        if any(shape[axis] not in (1, out[axis + shift]) for axis in axes):
            raise _UnfitError("something beside the stream has another number of tokens")
        axes = [axis for axis in axes if shape[axis] != 1]
        if axes:
            keys = [axis for axis in axes if len(out_axes) > 1 and axis + shift == max(out_axes)]
            walk.reads.append(Read(node, slot, value, tuple(axes), tuple(keys)))

    def _size(self, value: ir.Value) -> tuple[int, ...] | None:
        if (dims := self.shapes.of(name_of(value))) is not None:
            return sizes(dims)
        return fixed_shape(value)


def _given(node: ir.Node) -> list[tuple[int, ir.Value]]:
    return [(slot, value) for slot, value in enumerate(node.inputs) if value is not None]


def sizes(dims: Iterable[Dim]) -> tuple[int, ...]:
    """Concrete sizes: symbolic ones large and prime, so that they are not taken for fixed ones."""
    open_ones = [bool(dim.batch or dim.tokens or dim.both) for dim in dims]
    return tuple(d.at(SAMPLES, TOKENS) if o else d.at(0, 0) for d, o in zip(dims, open_ones, strict=True))
