"""Small models with exits, written by hand in the form of ``adapass.ops``, and feeds for them.

``make(family, exits)`` builds a model; every family crosses its exits with another kind of value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_THRESHOLDS
from tests.lowering.drafts import CLASSES, WIDTH, Array, Draft

Feeds = dict[str, Array]


def mlp(exits: int) -> ir.Model:
    """One state [B, C]."""
    draft = Draft(f"float[B, {WIDTH}] x")
    for k in range(exits):
        draft.block(k)
        draft.head(k, draft.state)
        draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    return _last_block(draft, exits)


def tokens(exits: int, mask: str = "row") -> ir.Model:
    """Attention over [B, T, C]; a mask ([B, 1, T], [B, T, T]) and shapes to reshape to cross the exits."""
    draft = Draft(f"float[B, T, {WIDTH}] x, int64[B, T] mask")
    draft.weights["floor"] = np.array(-1e4, np.float32)
    draft.weights["heads"] = np.array([2], np.int64)
    draft.body += """
    real = Cast<to = 1>(mask)
    row = Unsqueeze(real, one)
    column = Unsqueeze(real, two)
    square = MatMul(column, row)
    shape = Shape(x)
    batch = Slice(shape, zero_1, one)
    time = Slice(shape, one, two)
    split = Concat<axis = 0>(batch, time, heads, four)
    merge = Concat<axis = 0>(batch, time, minus_1)
    """
    draft.weights["zero_1"] = np.array([0], np.int64)
    draft.body += f"""
    padding = Equal({mask}, zero_f)
    padding_4 = Unsqueeze(padding, one)
    """
    draft.weights["zero_f"] = np.array(0, np.float32)
    for k in range(exits + 1):
        _attend(draft, k)
        draft.block(k)
        draft.body += f"pooled_{k} = ReduceMean<keepdims = 0>({draft.state}, one)\n"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    return _closed(draft, exits)


def square_mask(exits: int) -> ir.Model:
    return tokens(exits, "square")


def patience(exits: int) -> ir.Model:
    """A counter of agreeing heads and their last answer cross the exits."""
    draft = Draft(f"float[B, {WIDTH}] x")
    draft.weights["none_i"] = np.array(-1, np.int64)
    draft.body += """
    size = Shape<start = 0, end = 1>(x)
    answer_start = Expand(none_i, size)
    count_start = Expand(zero, size)
    """
    before = "start"
    for k in range(exits):
        draft.block(k)
        draft.head(k, draft.state, confidence="patience_{k}")
        draft.body = draft.body.replace(
            f"limit_{k} =",
            f"""answer_{k} = ArgMax<axis = 1, keepdims = 0>(head_{k})
            agrees_{k} = Equal(answer_{k}, answer_{before})
            grown_{k} = Add(count_{before}, one_i)
            count_{k} = Where(agrees_{k}, grown_{k}, zero)
            patience_{k} = Cast<to = 1>(count_{k})
            limit_{k} =""",
        )
        draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
        before = str(k)
    draft.weights["one_i"] = np.array(1, np.int64)
    return _last_block(draft, exits)


def time_first(exits: int) -> ir.Model:
    """The state crosses as [T, B, C]: the batch is not the first axis."""
    draft = Draft(f"float[B, T, {WIDTH}] input")
    draft.body += "x = Transpose<perm = [1, 0, 2]>(input)\n"
    draft.weights["zero_1"] = np.array([0], np.int64)
    for k in range(exits + 1):
        draft.block(k)
        draft.body += f"pooled_{k} = ReduceMean<keepdims = 0>({draft.state}, zero_1)\n"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    return _closed(draft, exits)


def row_numbers(exits: int) -> ir.Model:
    """The last real token is looked up with row numbers that were computed before the first exit."""
    draft = Draft(f"float[B, T, {WIDTH}] x, int64[B, T] mask")
    draft.weights["one_i"] = np.array(1, np.int64)
    draft.body += """
    size = Shape<start = 0, end = 1>(x)
    size_0 = Squeeze(size)
    numbers = Range(zero, size_0, one_i)
    length = ReduceSum<keepdims = 0>(mask, one)
    last = Sub(length, one_i)
    left = Unsqueeze(numbers, one)
    right = Unsqueeze(last, one)
    places = Concat<axis = 1>(left, right)
    """
    for k in range(exits + 1):
        draft.block(k)
        draft.body += f"pooled_{k} = GatherND({draft.state}, places)\n"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    return _closed(draft, exits)


def folded(exits: int) -> ir.Model:
    """Inside every part the batch is folded into the tokens; the shape to unfold comes from the start."""
    draft = Draft(f"float[B, T, {WIDTH}] x")
    draft.weights["flat"] = np.array([-1, WIDTH], np.int64)
    draft.body += "unfold = Shape(x)\n"
    for k in range(exits + 1):
        draft.body += f"flat_{k} = Reshape({draft.state}, flat)\n"
        draft.state = f"flat_{k}"
        draft.block(k)
        draft.body += f"y_{k} = Reshape({draft.state}, unfold)\n"
        draft.body += f"pooled_{k} = ReduceMean<keepdims = 0>(y_{k}, one)\n"
        draft.state = f"y_{k}"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    return _closed(draft, exits)


def two_outputs(exits: int) -> ir.Model:
    """Selected logits and token features, and an output that no exit selects."""
    draft = Draft(f"float[B, T, {WIDTH}] x")
    draft.outputs += f", float[B, {WIDTH}] average, float[B, T, {WIDTH}] features"
    draft.body += "average = ReduceMean<keepdims = 0>(x, one)\n"
    for k in range(exits + 1):
        draft.block(k)
        draft.body += f"pooled_{k} = ReduceMax<keepdims = 0>({draft.state}, one)\n"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\nfeatures_taken_{k} = Neg({draft.state})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    draft.select(exits, {"logits": "original", "features": draft.state})
    return draft.finish(exits)


def branching(exits: int) -> ir.Model:
    """The model has an If of its own whose branches read values from before the exits."""
    draft = Draft(f"float[B, {WIDTH}] x, bool flip")
    draft.body += "start = Neg(x)\n"
    for k in range(exits + 1):
        draft.block(k)
        draft.body += f"""
        mixed_{k} = If(flip) <
            then_branch = then_{k} () => (float[B, {WIDTH}] up_{k}_then) {{
                up_{k}_then = Add({draft.state}, start)
            }},
            else_branch = else_{k} () => (float[B, {WIDTH}] up_{k}_else) {{
                up_{k}_else = Sub({draft.state}, start)
            }}>
        """
        draft.state = f"mixed_{k}"
        if k < exits:
            draft.head(k, draft.state)
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul({draft.state}, wo)\n"
    return _closed(draft, exits)


def one_sample(exits: int) -> ir.Model:
    """The batch size is fixed at 1."""
    model = mlp(exits)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name != EXIT_THRESHOLDS and value.shape is not None:
            value.shape = ir.Shape([1, *value.shape[1:]])
    infer_shapes(model)
    return model


def trapped(exits: int) -> ir.Model:
    """Behind exit k a lookup at ``trap[:, k]`` fails for a sample still there whose entry is too large."""
    draft = Draft(f"float[B, {WIDTH}] x, int64[B, {exits}] trap")
    for k in range(exits + 1):
        draft.block(k)
        if k > 0:
            draft.weights[f"at_{k}"] = np.array([k - 1], np.int64)
            draft.body += f"""
            trap_{k} = Gather<axis = 1>(trap, at_{k})
            caught_{k} = GatherElements<axis = 1>({draft.state}, trap_{k})
            sprung_{k} = Add({draft.state}, caught_{k})
            """
            draft.state = f"sprung_{k}"
        if k < exits:
            draft.head(k, draft.state)
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul({draft.state}, wo)\n"
    return _closed(draft, exits)


def chosen(exits: int) -> ir.Model:
    """How certain each head is comes with the feeds (``certain`` [B, exits]), so a test chooses who stops."""
    draft = Draft(f"float[B, {WIDTH}] x, float[B, {exits}] certain")
    for k in range(exits):
        draft.block(k)
        draft.body += f"certain_{k} = Gather<axis = 1>(certain, exit_{k})\n"
        draft.head(k, draft.state, confidence="certain_{k}")
        draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    return _last_block(draft, exits)


def shared(exits: int) -> ir.Model:
    """One weight for all layers."""
    draft = Draft(f"float[B, {WIDTH}] x")
    draft.weight("all_layers", WIDTH, WIDTH)
    for k in range(exits + 1):
        draft.body += f"y_{k} = MatMul({draft.state}, all_layers)\nx_{k} = Tanh(y_{k})\n"
        draft.state = f"x_{k}"
        if k < exits:
            draft.head(k, draft.state)
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul({draft.state}, wo)\n"
    return _closed(draft, exits)


def quantized(exits: int) -> ir.Model:
    """Integers made before the exits with one scale for the batch cross them, and so does the scale."""
    draft = Draft(f"float[B, {WIDTH}] x")
    draft.weights["w8"] = draft.integers(WIDTH, WIDTH)
    draft.body += """
    q, scale, zero_point = DynamicQuantizeLinear(x)
    steps = Cast<to = 1>(q)
    restored = Mul(steps, scale)
    """
    draft.state = "restored"
    for k in range(exits):
        draft.block(k)
        draft.head(k, draft.state)
        draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.body += """
    sums = MatMulInteger(q, w8, zero_point)
    floats = Cast<to = 1>(sums)
    scaled = Mul(floats, scale)
    """
    draft.state = "scaled"
    return _last_block(draft, exits)


def fold_crosses(exits: int) -> ir.Model:
    """Refused: the state crosses with the batch folded into the tokens, behind a product."""
    draft = Draft(f"float[B, T, {WIDTH}] x", body="unfold = Shape(x)\nflat = Reshape(x, flat_shape)\n")
    draft.weights["flat_shape"] = np.array([-1, WIDTH], np.int64)
    draft.state = "flat"
    for k in range(exits + 1):
        draft.block(k)
        draft.body += f"y_{k} = Reshape({draft.state}, unfold)\n"
        draft.body += f"pooled_{k} = ReduceMean<keepdims = 0>(y_{k}, one)\n"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    return _closed(draft, exits)


def averaged(exits: int) -> ir.Model:
    """Refused: after the exit the mean over the batch is subtracted."""
    return _with_tail(exits, "mean = ReduceMean<keepdims = 1>({x}, zero_1)\ntail = Sub({x}, mean)\n")


def batch_softmax(exits: int) -> ir.Model:
    """Refused: a softmax over the batch after the exit."""
    return _with_tail(exits, "tail = Softmax<axis = 0>({x})\n")


def average_crosses(exits: int) -> ir.Model:
    """Refused: the mean over the batch is computed before the exit and read after it."""
    model = "tail = Sub({x}, mean)\n"
    return _with_tail(exits, model, before="mean = ReduceMean<keepdims = 1>(x, zero_1)\n")


FAMILIES: Mapping[str, Callable[[int], ir.Model]] = {
    each.__name__: each
    for each in (
        mlp,
        tokens,
        square_mask,
        patience,
        time_first,
        row_numbers,
        folded,
        two_outputs,
        branching,
        one_sample,
        trapped,
        chosen,
        shared,
        quantized,
        fold_crosses,
        averaged,
        batch_softmax,
        average_crosses,
    )
}


@pytest.fixture(scope="session")
def make() -> Callable[[str, int], ir.Model]:
    """``make(family, exits)``: the same object every time, nobody may change it."""

    @cache
    def build(family: str, exits: int) -> ir.Model:
        return FAMILIES[family](exits)

    return build


@pytest.fixture(scope="session")
def feed() -> Callable[[ir.Model, int, int], Feeds]:
    """``feed(model, batch, seed)``: random inputs without thresholds; lengths vary with the seed."""
    return _feed


def _feed(model: ir.Model, batch: int, seed: int) -> Feeds:
    rng = np.random.default_rng([batch, seed])
    length = int(rng.integers(2, 7))
    feeds: Feeds = {}
    for value in model.graph.inputs:
        if value.name == EXIT_THRESHOLDS or value.shape is None:
            continue
        sizes = {"B": batch, "T": length}
        shape = [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape]
        if value.dtype is ir.DataType.FLOAT:
            feeds[value.name or ""] = rng.standard_normal(shape).astype(np.float32)
        elif value.dtype is ir.DataType.BOOL:
            feeds[value.name or ""] = rng.integers(0, 2, shape).astype(np.bool_)
        elif value.name == "mask":
            lengths = rng.integers(1, length + 1, batch)
            feeds["mask"] = (np.arange(length)[None] < lengths[:, None]).astype(np.int64)
        else:
            feeds[value.name or ""] = np.zeros(shape, np.int64)
    return feeds


def _attend(draft: Draft, k: int) -> None:
    for part in ("q", "k", "v"):
        draft.weight(f"w{part}_{k}", WIDTH, WIDTH)
        perm = "[0, 2, 3, 1]" if part == "k" else "[0, 2, 1, 3]"
        draft.body += f"""
        {part}_flat_{k} = MatMul({draft.state}, w{part}_{k})
        {part}_split_{k} = Reshape({part}_flat_{k}, split)
        a{part}_{k} = Transpose<perm = {perm}>({part}_split_{k})
        """
    draft.body += f"""
    score_{k} = MatMul(aq_{k}, ak_{k})
    masked_{k} = Where(padding_4, floor, score_{k})
    weight_{k} = Softmax<axis = -1>(masked_{k})
    mixed_{k} = MatMul(weight_{k}, av_{k})
    back_{k} = Transpose<perm = [0, 2, 1, 3]>(mixed_{k})
    merged_{k} = Reshape(back_{k}, merge)
    attended_{k} = Add({draft.state}, merged_{k})
    """
    draft.state = f"attended_{k}"


def _last_block(draft: Draft, exits: int) -> ir.Model:
    draft.block(exits)
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul({draft.state}, wo)\n"
    return _closed(draft, exits)


def _closed(draft: Draft, exits: int) -> ir.Model:
    if not exits:
        draft.body += "logits = Identity(original)\n"
        return draft.finish(0)
    draft.select(exits, {"logits": "original"})
    return draft.finish(exits)


def _with_tail(exits: int, tail: str, before: str = "") -> ir.Model:
    draft = Draft(f"float[B, {WIDTH}] x", body=before)
    draft.weights["zero_1"] = np.array([0], np.int64)
    for k in range(exits):
        draft.block(k)
        draft.head(k, draft.state)
        draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.body += tail.format(x=draft.state)
    draft.state = "tail"
    return _last_block(draft, exits)
