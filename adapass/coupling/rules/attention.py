"""Attention and rotary embedding as one operator (operator set 23)."""

from __future__ import annotations

from math import sqrt

import onnx_ir as ir

from adapass.coupling.dims import Dim, fix, mark, product
from adapass.coupling.flow import Dims, Flow, Frozen, Read, Refused, Sized
from adapass.coupling.relations import cut, split, unify

SEPARATE = 4
"""Rank of queries, keys and values whose heads have an axis of their own."""


def attention(flow: Flow, node: ir.Node) -> None:
    query, key, value = (flow.of(node, index) for index in range(3))
    q_heads, q_width = _heads(flow, node, query, "q_num_heads")
    k_heads, k_width = _heads(flow, node, key, "kv_num_heads")
    v_heads, v_width = _heads(flow, node, value, "kv_num_heads")
    unify(k_heads, v_heads)
    unify(q_width, k_width)
    _share(flow, q_heads, k_heads)
    for dim in (q_heads, k_heads):
        mark(dim, "heads")
    for dim in (q_width, v_width):
        mark(dim, "width")
    _note(flow, node, q_width, query, q_heads, k_heads)
    steps, kept = _length(query), _length(key)
    fix(kept, "Softmax runs over it")
    if len(query) == SEPARATE:
        flow.give(node, [query[0], q_heads, steps, v_width])
    else:
        flow.give(node, [query[0], steps, product([q_heads, v_width], flow.ones)])
    _rest(flow, node, (query[0], q_heads, k_heads), (steps, k_width, v_width))


def _heads(flow: Flow, node: ir.Node, dims: Dims, attribute: str) -> tuple[Dim, Dim]:
    if len(dims) == SEPARATE:
        return dims[1], dims[3]
    parts = split(dims[2], flow.constant(node.attributes.get_int(attribute, 1)))
    if parts is None:
        raise Refused("the heads of an Attention are made of unlike parts")
    return parts


def _length(dims: Dims) -> Dim:
    return dims[2] if len(dims) == SEPARATE else dims[1]


def _share(flow: Flow, queries: Dim, keys: Dim) -> None:
    """Several heads of queries read one head of keys and values."""
    if queries.size == keys.size:
        unify(queries, keys)
        return
    parts = split(queries, keys.size)
    if parts is None:
        fix(queries, "its heads share keys in a way that cannot be followed")
        fix(keys, "its heads share keys in a way that cannot be followed")
        return
    unify(parts[0], keys)


def _note(flow: Flow, node: ir.Node, width: Dim, query: Dims, q_heads: Dim, k_heads: Dim) -> None:
    flow.reads.append(Read(node, 0, len(query) - 1))
    flow.frozen.append(Frozen(node, "scale", 1 / sqrt(width.size[0]), width))
    for attribute, dim in (("q_num_heads", q_heads), ("kv_num_heads", k_heads)):
        if attribute in node.attributes:
            flow.sized.append(Sized(node, None, attribute, ((dim,),)))


def _rest(flow: Flow, node: ir.Node, outer: tuple[Dim, Dim, Dim], inner: tuple[Dim, Dim, Dim]) -> None:
    """Mask, past keys and values, and the further outputs."""
    batch, q_heads, k_heads = outer
    steps, k_width, v_width = inner
    mask = flow.maybe(node, 3)
    if mask is not None and len(mask) == SEPARATE and mask[1].size != flow.ones:
        unify(mask[1], q_heads)
    for index, width in ((4, k_width), (5, v_width)):
        past = flow.maybe(node, index)
        if past is not None:
            unify(past[1], k_heads)
            unify(past[3], width)
    for index, (heads, width) in ((1, (k_heads, k_width)), (2, (k_heads, v_width))):
        if index < len(node.outputs) and node.outputs[index].name:
            length = flow.fixed(flow.out(node, index)[2], "Softmax runs over it")
            flow.give(node, [batch, heads, length, width], index)
    if len(node.outputs) > 3 and node.outputs[3].name:
        length = flow.fixed(flow.out(node, 3)[3], "Softmax runs over it")
        flow.give(node, [batch, q_heads, steps, length], 3)


def rotary(flow: Flow, node: ir.Node) -> None:
    """Entry i turns with entry i + half (or with its neighbour): the two stay together."""
    data = flow.of(node, 0)
    if len(data) == SEPARATE:
        width = data[3]
    else:
        heads, width = _heads(flow, node, data, "num_heads")
        flow.sized.append(Sized(node, None, "num_heads", ((heads,),)))
    turned = node.attributes.get_int("rotary_embedding_dim", 0)
    if turned and flow.constant(turned) != width.size:
        parts = cut(width, flow.constant(turned))
        if parts is None:
            raise Refused("a rotary embedding turns a part that cannot be told apart")
        width = parts[0]
    half = _pairs(flow, node, width)
    if turned:
        flow.sized.append(Sized(node, None, "rotary_embedding_dim", ((width,),)))
    for index in (1, 2):
        unify(flow.of(node, index)[-1], half)
    flow.give(node, data)


def _pairs(flow: Flow, node: ir.Node, width: Dim) -> Dim:
    half = tuple(size // 2 for size in width.size)
    if node.attributes.get_int("interleaved", 0):
        parts = split(width, half)
        if parts is None:
            raise Refused("a rotary embedding turns pairs that cannot be told apart")
        fix(parts[1], "a rotary embedding turns the two together")
        return parts[0]
    parts = cut(width, half)
    if parts is None:
        raise Refused("a rotary embedding turns halves that cannot be told apart")
    unify(*parts)
    return parts[0]
