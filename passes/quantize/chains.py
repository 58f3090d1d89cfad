"""Which activations stay in 8 bits between quantized products.

A quantized convolution writes 8 bits, so its result is quantized for every reader (behind the Relu or
Clip that follows it, which the conversion absorbs). Operators with an 8-bit kernel go on in 8 bits when
everything they read is quantized: a residual ``Add`` of two quantized values writes a third. Operators
that only move numbers (``Reshape``, ``MaxPool``, ...) keep the scale of what they read, so that the
runtime can run them on the bytes; they are only wrapped when a quantized operator follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from adapass.graph.edit import constant_tensor

COMPUTING = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"})
MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Pad"})
ABSORBED = frozenset({"Relu", "Clip"})
_ALL_INPUTS = frozenset({"Add", "Mul", "Concat"})
"""Operators whose inputs are all activations; the others read one activation, then parameters."""


@dataclass(frozen=True, slots=True)
class Chains:
    """Values to quantize for all their readers, in execution order."""

    scale_of: Mapping[ir.Value, ir.Value]
    """For each such value the one whose scale it uses (itself, unless it was only moved)."""


def find_chains(graph: ir.Graph, results: Iterable[ir.Value], readers: frozenset[ir.Node]) -> Chains:
    """Follow 8-bit values from the ``results`` of quantized convolutions through the graph.

    ``readers`` are the quantized products: they read 8 bits.
    """
    scale_of: dict[ir.Value, ir.Value] = {}
    starts = frozenset(settled(value) for value in results)
    for node in graph:
        scale_of.update({value: value for value in node.outputs if value in starts})
        _follow(node, scale_of)
    return Chains(_wanted(scale_of, readers))


def settled(value: ir.Value) -> ir.Value:
    """The value behind the Relu or Clip that alone reads ``value``, else ``value`` itself."""
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return value
    reader = next(iter(uses)).node
    absorbed = reader.domain == "" and reader.op_type in ABSORBED and reader.graph is value.graph
    return reader.outputs[0] if absorbed and reader.inputs[0] is value else value


def _follow(node: ir.Node, scale_of: dict[ir.Value, ir.Value]) -> None:
    if node.domain != "" or node.op_type not in COMPUTING | MOVING or len(node.outputs) != 1:
        return
    data = node.inputs if node.op_type in _ALL_INPUTS else node.inputs[:1]
    if any(value is None or value not in scale_of for value in data):
        return
    if node.op_type in COMPUTING:
        result = settled(node.outputs[0])
        scale_of[result] = result
        return
    source = node.inputs[0]
    if source is not None and (node.op_type != "Pad" or _pads_zeros(node)):
        scale_of[node.outputs[0]] = scale_of[source]


def _pads_zeros(node: ir.Node) -> bool:
    """Any other constant may lie outside the range of what is padded."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    if fill is None:
        return True
    tensor = constant_tensor(fill)
    return tensor is not None and not tensor.numpy().any()


def _wanted(scale_of: Mapping[ir.Value, ir.Value], readers: frozenset[ir.Node]) -> dict[ir.Value, ir.Value]:
    """Drop moved values that no quantized operator reads."""
    kept: dict[ir.Value, ir.Value] = {}
    for value, scale in reversed(list(scale_of.items())):
        users = [use.node for use in value.uses()]
        if scale is value or any(user in readers or _reads_bytes(user, kept) for user in users):
            kept[value] = scale
    return dict(reversed(list(kept.items())))


def _reads_bytes(node: ir.Node, kept: Mapping[ir.Value, ir.Value]) -> bool:
    if node.domain != "" or node.op_type not in COMPUTING | MOVING:
        return False
    return node.outputs[0] in kept or settled(node.outputs[0]) in kept
