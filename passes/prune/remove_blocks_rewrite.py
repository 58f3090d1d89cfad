"""Take a residual branch out of a graph, or put a cheap map of the stream in its place.

    y = Add(x, f(x))                       ->   x                                   remove
                                           ->   Add(x, b)                           bias
                                           ->   Add(Mul(x, s), b)                   linear
                                           ->   Add(MatMul(x, m), b)                mix
                                           ->   Conv(x, k, b)                       convolve
    n = LayerNormalization(Add(x, f(x)))   ->   Add(Mul(x, s), b)                   linear, post-norm

``s`` and ``b`` have one number a channel, ``m`` [C, C] mixes channels, ``k`` [C, C, ...] is as large as the
largest kernel of the branch. Where channels come before pixels, scale and shift are one depthwise 1 x 1
convolution and the mix is a full one: runtimes fuse them with the activation behind. A Relu of what cannot be
negative goes too.

The product of ``mix`` and ``convolve`` takes the name of the branch's last one: what later passes know about
that place (8 bits, say) goes for the product that is there now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import (
    constant_array,
    new_initializer,
    remove_if_dead,
    replace_subgraph,
    replace_uses,
)
from adapass.graph.stand_ins import note_stand_in
from adapass.passes.prune.remove_blocks_branches import Branch


class Setting(StrEnum):
    """What takes the place of a branch."""

    REMOVE = "remove"
    BIAS = "bias"
    LINEAR = "linear"
    MIX = "mix"
    CONVOLVE = "convolve"


MIXING = frozenset({Setting.MIX, Setting.CONVOLVE})
"""What puts a product of stored weights in the place of a branch."""


MARK = "adapass.remove-blocks"
"""Metadata key of the node that adds the shift: the value of the original that its result stands for."""
KIND = "adapass.remove-blocks.setting"
KEEPS_SIGN = frozenset({"Slice", "MaxPool", "AveragePool", "Identity", "Reshape", "Transpose", "Pad"})


def take_out(graph: ir.Graph, branch: Branch, setting: Setting) -> None:
    """Rewrite one branch in place; scale and shift are 1 and 0 until they are fitted."""
    end = replaced(branch, setting)
    name = end.name or ""
    add, stream = branch.add, branch.stream
    if setting is Setting.REMOVE:
        _stand_in(end, stream)
        remove_if_dead(add)
        return
    if setting in MIXING:
        nodes = _mixing(graph, branch, name, setting)
    else:
        nodes = _affine(graph, branch, name, setting)
    old = end.producer()
    assert old is not None  # a sum or a normalisation of the graph
    nodes[-1].metadata_props.update({MARK: name, KIND: setting.value})
    replace_subgraph(add, old=[end], new=nodes[-1].outputs, nodes=nodes)  # under its name
    for node in (old, add):
        if node.graph is not None:
            remove_if_dead(node)
    if setting in MIXING:
        _rename(nodes, branch.site)


def _rename(nodes: Sequence[ir.Node], site: str) -> None:
    """Call the product as the branch's last one was; readers know what else it stands for.

    An output of the model keeps its name: users know it.
    """
    value = nodes[0].outputs[0]
    if value.is_graph_output():
        return
    removed = value.name or ""
    value.name = site
    first = [use.node for use in value.uses() if use.idx == 0]
    if len(nodes) == 1 and first:
        note_stand_in(first[0], removed)


def replaced(branch: Branch, setting: Setting) -> ir.Value:
    """The value whose place is taken: the sum, or the normalised sum where scale and shift can do both."""
    norm = branch.norm
    return norm.outputs[0] if setting is Setting.LINEAR and norm is not None else branch.sum


def _stand_in(end: ir.Value, stream: ir.Value) -> None:
    """Let readers of ``end`` read ``stream``, a Relu of what has one already not at all."""
    removed = end.name or ""
    readers = [use.node for use in end.uses()]
    only = readers[0] if len(readers) == 1 and not end.is_graph_output() else None
    if only is not None and only.op_type == "Relu" and only.domain == "" and is_non_negative(stream):
        end, removed = only.outputs[0], only.outputs[0].name or ""
    first = [use.node for use in end.uses() if use.idx == 0]
    if first:
        note_stand_in(first[0], removed)
    relu = end.producer()
    replace_uses(end, stream)
    if relu is not None and relu.op_type == "Relu":
        remove_if_dead(relu)


def is_non_negative(value: ir.Value) -> bool:
    """Whether a value is the result of a Relu, perhaps cut, pooled or padded with zeros."""
    while (node := value.producer()) is not None and node.domain == "":
        if node.op_type == "Relu":
            return True
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in KEEPS_SIGN or source is None or not _fills_with_zeros(node):
            return False
        value = source
    return False


def _fills_with_zeros(node: ir.Node) -> bool:
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    if fill is None:
        return True
    array = constant_array(fill)
    return array is not None and bool((array.astype(np.float64) >= 0.0).all())


def _affine(graph: ir.Graph, branch: Branch, name: str, setting: Setting) -> list[ir.Node]:
    stream, channels = branch.stream, branch.channels
    rank, dtype = branch.rank, branch.dtype.numpy()
    ones, zeros = np.ones(channels, dtype), np.zeros(channels, dtype)
    if branch.is_image:
        weight = new_initializer(graph, f"{name}_scale", ones.reshape(channels, *[1] * (rank - 1)))
        bias = new_initializer(graph, f"{name}_shift", zeros)
        return [ir.node("Conv", [stream, weight, bias], {"group": channels})]
    shape = [1] * (rank - 1 - branch.axis)
    nodes: list[ir.Node] = []
    if setting is Setting.LINEAR:
        scale = new_initializer(graph, f"{name}_scale", ones.reshape(channels, *shape))
        nodes.append(ir.node("Mul", [stream, scale]))
    shift = new_initializer(graph, f"{name}_shift", zeros.reshape(channels, *shape))
    nodes.append(ir.node("Add", [nodes[-1].outputs[0] if nodes else stream, shift]))
    return nodes


def kernel_of(branch: Branch) -> tuple[int, ...] | None:
    """The largest kernel of a branch on images, if it can be centred; ``None`` without one."""
    kernels = [kernel for node in branch.products if (kernel := _kernel(node)) is not None]
    if not kernels or any(len(kernel) != branch.rank - 2 for kernel in kernels):
        return None
    largest = tuple(max(sizes) for sizes in zip(*kernels, strict=True))
    return largest if all(size % 2 == 1 for size in largest) else None


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    weight = node.inputs[1] if node.op_type == "Conv" and node.domain == "" else None
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    return tuple(int(size) for size in weight.shape.numpy()[2:])


def _mixing(graph: ir.Graph, branch: Branch, name: str, setting: Setting) -> list[ir.Node]:
    stream, channels = branch.stream, branch.channels
    unit = np.eye(channels, dtype=branch.dtype.numpy())
    shift = new_initializer(graph, f"{name}_shift", np.zeros(channels, unit.dtype))
    if branch.is_image:
        sizes = (kernel_of(branch) if setting is Setting.CONVOLVE else None) or (1,) * (branch.rank - 2)
        kernel = np.zeros((channels, channels, *sizes), unit.dtype)
        centre = tuple(slice(size // 2, size // 2 + 1) for size in sizes)
        kernel[(slice(None), slice(None), *centre)] = unit.reshape(channels, channels, *[1] * len(sizes))
        weight = new_initializer(graph, f"{name}_mix", kernel)
        return [ir.node("Conv", [stream, weight, shift], {"pads": [size // 2 for size in sizes] * 2})]
    product = ir.node("MatMul", [stream, new_initializer(graph, f"{name}_mix", unit)])
    return [product, ir.node("Add", [product.outputs[0], shift])]


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and shift that ``take_out`` put in the place of a branch, by the names of their initializers."""

    first: ir.Node
    """The first of its nodes."""
    stream: str
    """What it reads."""
    scale: str | None
    shift: str
    scaled: bool
    """Whether the scale may be other than 1."""


def affine_at(node: ir.Node) -> Affine:
    """What ``take_out`` marked ``node`` as the last node of."""
    scaled = node.metadata_props[KIND] == Setting.LINEAR
    names = [value.name or "" for value in node.inputs if value is not None]
    if node.op_type == "Conv":
        return Affine(node, names[0], names[1], names[2], scaled)
    first = node.inputs[0].producer() if scaled and node.inputs[0] is not None else None
    if first is None:
        return Affine(node, names[0], None, names[1], scaled)
    stream, scale = (value.name or "" for value in first.inputs if value is not None)
    return Affine(first, stream, scale, names[1], scaled)
