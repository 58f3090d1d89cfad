"""Axes: which axis of a value counts samples, and which counts tokens.

Where the sizes are symbolic the answer is read off runs at several sizes (see ``shapes``). Where
they are fixed, the axes are followed from the graph inputs through every operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import onnx_ir as ir

from adapass.analyses.axis_rules import Step, follow
from adapass.analyses.dataflow import Dataflow, fixed_shape, name_of
from adapass.analyses.shapes import Dim, Shapes
from adapass.facts import Fact, FactCache

LAST_AXIS_OPS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


@dataclass(frozen=True, slots=True)
class Axes(Fact):
    """Answers by value name; a name of no live value of the main graph has no axes."""

    batch: Mapping[str, int] = field(repr=False)
    tokens: Mapping[str, int] = field(repr=False)
    batch_sized: frozenset[str]

    def batch_axis(self, name: str) -> int | None:
        """The axis with exactly one entry per sample. A batch folded into another axis does not count."""
        return self.batch.get(name)

    def token_axis(self, name: str) -> int | None:
        """The axis along the tokens; of a square of tokens the first (the queries)."""
        return self.tokens.get(name)

    def is_batch_sized(self, name: str) -> bool:
        """Whether an integer value holds the batch size or positions in the batch.

        Such a value becomes wrong when samples leave the batch: it must be computed again, where a
        value with a batch axis can just be gathered. It may have a batch axis as well (``Range(B)``).
        """
        return name in self.batch_sized

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        flow, shapes = facts.get(Dataflow), facts.get(Shapes)
        batch, tokens = _seen(shapes) if shapes.probed else ({}, {})
        if not (shapes.probed and shapes.dynamic_batch):
            batch = _followed(flow, shapes, _first_axes(flow, shapes))
        if not (shapes.probed and shapes.dynamic_tokens):
            tokens = _followed(flow, shapes, _sequence_axes(flow, shapes, batch))
        sized = (
            shapes.by_position if shapes.probed and shapes.dynamic_batch else _from_sizes(flow, shapes, batch)
        )
        return cls(MappingProxyType(batch), MappingProxyType(tokens), sized)


def _seen(shapes: Shapes) -> tuple[dict[str, int], dict[str, int]]:
    batch: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for name, dims in shapes.dims.items():
        _note(batch, name, [dim.is_batch for dim in dims])
        _note(tokens, name, [dim.follows_tokens for dim in dims])
    return batch, tokens


def _note(found: dict[str, int], name: str, marks: list[bool]) -> None:
    if True in marks:
        found[name] = marks.index(True)


def _first_axes(flow: Dataflow, shapes: Shapes) -> dict[str, int]:
    """Axis 0 of the graph inputs, as far as they agree on its size with the first of them."""
    first = [(name_of(value), dims[0]) for value in flow.inputs if (dims := shapes.of(name_of(value)))]
    return {name: 0 for name, dim in first if dim == first[0][1]}


def _sequence_axes(flow: Dataflow, shapes: Shapes, batch: Mapping[str, int]) -> dict[str, int]:
    """Axis 1 of [B, T, C] values that are normalised or multiplied by a weight along their last axis."""
    found: dict[str, int] = {}
    for value in flow.values():
        name = name_of(value)
        dims = shapes.of(name)
        if dims is None or len(dims) != 3 or batch.get(name) != 0 or not shapes.is_float(name):
            continue
        if any(_works_along_last(flow, reader, value) for reader in flow.readers.get(value, ())):
            found[name] = 1
    return found


def _works_along_last(flow: Dataflow, reader: int, value: ir.Value) -> bool:
    node = flow.nodes[reader]
    if not node.inputs or node.inputs[0] is not value:
        return False
    return node.op_type in LAST_AXIS_OPS or (
        node.op_type == "MatMul" and node.inputs[1] in flow.constants[reader]
    )


def _followed(flow: Dataflow, shapes: Shapes, seeds: Mapping[str, int]) -> dict[str, int]:
    """Seeds, and where their axes go; a seed is stronger than what arrives from elsewhere."""
    known = dict(seeds)
    for index, node in enumerate(flow.nodes):
        arriving = [(place, known[value.name]) for place, value in _inputs(node) if value.name in known]
        for value in node.outputs:
            out = _sizes(shapes.of(name_of(value)))
            if not value.name or value.name in known or out is None:
                continue
            axis = _arrival(node, arriving, _input_sizes(flow, shapes, index), out)
            if axis is not None:
                known[value.name] = axis
    return known


def _arrival(
    node: ir.Node, arriving: list[tuple[int, int]], inputs: list[tuple[int, ...] | None], out: tuple[int, ...]
) -> int | None:
    for place, axis in arriving:
        found = follow(Step(node, place, axis, inputs, out))
        if found is not None:
            return found
    return None


def _inputs(node: ir.Node) -> list[tuple[int, ir.Value]]:
    return [(place, value) for place, value in enumerate(node.inputs) if value is not None]


def _input_sizes(flow: Dataflow, shapes: Shapes, index: int) -> list[tuple[int, ...] | None]:
    constants = frozenset(flow.constants[index])
    return [
        None
        if value is None
        else fixed_shape(value)
        if value in constants
        else _sizes(shapes.of(name_of(value)))
        for value in flow.nodes[index].inputs
    ]


def _sizes(dims: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """Concrete sizes that keep symbolic dimensions apart from fixed ones and from each other."""
    return (
        None
        if dims is None
        else tuple(dim.at(1009, 2003) if dim.batch or dim.tokens else dim.at(0, 0) for dim in dims)
    )


def _measures(node: ir.Node, batch_axis: int | None) -> bool:
    """Whether the sizes a ``Shape`` or ``Size`` returns include that of the batch."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 1 << 30)
    return batch_axis is not None and max(0, start) <= batch_axis and (end < 0 or batch_axis < end)


def _from_sizes(flow: Dataflow, shapes: Shapes, batch: Mapping[str, int]) -> frozenset[str]:
    """Integers computed from the sizes of values with a batch axis, and from nothing else."""
    found: set[str] = set()
    for index, node in enumerate(flow.nodes):
        names = [name_of(value) for value in flow.reads[index]]
        counts = node.op_type in ("Shape", "Size") and any(_measures(node, batch.get(name)) for name in names)
        passes = bool(names) and node.op_type != "ConstantOfShape" and any(name in found for name in names)
        if not counts and not passes:
            continue
        found.update(
            value.name for value in node.outputs if value.name and shapes.dtypes.get(value.name) in INTEGERS
        )
    return frozenset(found)
