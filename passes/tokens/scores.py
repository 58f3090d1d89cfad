"""How much each token matters, as nodes: a score ``[B, T]`` a site.

    class-token   sum over heads of  softmax(q[0] k^T * scale + mask) * |v|
    received      sum over heads and real queries of  softmax(q k^T * scale + mask)
    similarity    - max over tokens of even position of  cos(k, k')     of tokens of odd position
    learned       x w

The attention is computed a second time for the score (one row of it, or all), from the queries and keys that
are there: what reads the probabilities of an attention keeps runtimes from fusing it. A row costs nothing;
all of it about one percent of a layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.analyses.attention import AttentionCore
from adapass.passes.tokens.nodes import TokenBuilder
from adapass.passes.tokens.settings import Score

RANK = 4
"""Of queries and keys with an axis of heads: ``[B, H, T, D]``."""
LEAST_KEPT = 1000.0
"""The score of a token that others may be merged into, but it into none."""


def scorable(core: AttentionCore, score: Score, nodes: tuple[ir.Node, ...]) -> str | None:
    """Why ``score`` cannot be had from an attention; ``None`` when it can."""
    if score is Score.LEARNED:
        return None
    if not nodes or nodes[0].op_type != "MatMul" or core.heads is None:
        return "the attention has no product of queries and keys by heads to take a score from"
    return None


def attention_score(
    build: TokenBuilder, nodes: tuple[ir.Node, ...], score: Score, live: ir.Value | None
) -> ir.Value:
    """The score from the attention that consists of ``nodes``; ``live`` bool ``[B, T]``."""
    if score is Score.SIMILARITY:
        return _similarity(build, nodes, live)
    first_only = score is Score.CLASS_TOKEN
    probabilities = _again(build, nodes, first_only=first_only)
    if first_only:
        norm = _lengths(build, nodes[-1].inputs[1])
        row = build.squeeze(probabilities, 2)
        return build.reduce("ReduceSum", build.op("Mul", row, norm), (1,))
    if live is None:
        return build.reduce("ReduceSum", probabilities, (1, 2))
    weights = build.once(
        f"queries {live.name}",
        lambda: build.unsqueeze(build.op("Cast", live, to=int(ir.DataType.FLOAT)), 1, 2),
    )
    summed = build.op("MatMul", weights, probabilities)
    return build.reduce("ReduceSum", summed, (1, 2))


def key_metric(build: TokenBuilder, nodes: tuple[ir.Node, ...]) -> ir.Value:
    """The key of each token, mean over the heads: ``[B, T, D]``."""
    keys = nodes[0].inputs[1]
    assert keys is not None
    mean = build.reduce("ReduceMean", keys, (1,))
    return build.op("Transpose", mean, perm=[0, 2, 1])


def learned_score(build: TokenBuilder, x: ir.Value, channels: int, name: str) -> ir.Value:
    """A probe of the tokens' states, weights unfitted (zeros under ``name``)."""
    weight = build.constant(np.zeros((channels, 1), np.float32), name)
    return build.squeeze(build.op("MatMul", x, weight), 2)


def _again(build: TokenBuilder, nodes: tuple[ir.Node, ...], *, first_only: bool) -> ir.Value:
    """The attention from its product to its softmax once more, for the first query or for all."""
    product = nodes[0]
    query, keys = product.inputs[0], product.inputs[1]
    assert query is not None
    assert keys is not None
    if first_only:
        query = build.first_along(query, 2)
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    made = {product.outputs[0]: build.op("MatMul", query, keys)}
    for node in _between(product, softmax):
        given = [value for value in node.inputs if value is not None]
        inputs = [made[v] if v in made else _row(build, v, first_only=first_only) for v in given]
        attributes = tuple(node.attributes.values())
        twin = ir.Node(node.domain, node.op_type, inputs, attributes, version=node.version, name="")
        made[node.outputs[0]] = build.put(twin)
    return made[softmax.outputs[0]]


def _between(product: ir.Node, softmax: ir.Node) -> list[ir.Node]:
    """What lies on the way, the softmax included, in execution order; masks of passes before this one too."""
    chain = [softmax]
    while chain[0] is not product:
        makers = [value.producer() for value in chain[0].inputs if value is not None]
        chain.insert(0, next(node for node in makers if node is not None and _comes_from(node, product)))
    return chain[1:]


def _comes_from(node: ir.Node, product: ir.Node) -> bool:
    """Whether ``product`` is ``node`` or before it. Each node is looked at once: sums double the ways."""
    seen, stack = {node}, [node]
    while stack:
        current = stack.pop()
        if current is product:
            return True
        for value in current.inputs:
            maker = None if value is None else value.producer()
            if maker is not None and maker not in seen:
                seen.add(maker)
                stack.append(maker)
    return False


def _row(build: TokenBuilder, value: ir.Value, *, first_only: bool) -> ir.Value:
    """What is added to the scores, for the first query alone."""
    rank = 0 if value.shape is None else len(value.shape)
    is_one = rank >= 2 and value.shape is not None and value.shape[rank - 2] == 1
    if not first_only or rank < 2 or is_one:
        return value
    return build.once(f"first query of {value.name}", lambda: build.first_along(value, rank - 2))


def _lengths(build: TokenBuilder, values: ir.Value | None) -> ir.Value:
    assert values is not None
    square = build.reduce("ReduceSum", build.op("Mul", values, values), (3,))
    return build.op("Sqrt", square)


def _similarity(build: TokenBuilder, nodes: tuple[ir.Node, ...], live: ir.Value | None) -> ir.Value:
    """Tokens of even position stay; the others by how little they resemble the most similar of these."""
    key = key_metric(build, nodes)
    square = build.reduce("ReduceSum", build.op("Mul", key, key), (2,), keep=True)
    length = build.op("Sqrt", build.op("Max", square, build.number(1e-20)))
    direction = build.op("Div", key, length)
    cosine = build.op("MatMul", direction, build.op("Transpose", direction, perm=[0, 2, 1]))
    count = build.squeeze(build.size(key, 1), 0)
    place = build.op("Range", build.integer(0), count, build.integer(1))
    odd = build.op("Cast", build.op("Mod", place, build.integer(2)), to=int(ir.DataType.BOOL))
    closed = odd if live is None else build.unsqueeze(build.op("Or", odd, build.op("Not", live)), 1)
    others = build.op("Where", closed, build.number(-2.0), cosine)
    nearest = build.reduce("ReduceMax", others, (2,))
    return build.op("Where", odd, build.op("Neg", nearest), build.number(LEAST_KEPT))
