"""Axes: where samples and tokens are, read off runs and followed through operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapass.analyses.axes import Axes
from adapass.facts import FactCache

Build = Callable[..., FactCache]

CASES = {
    "transpose": "y = Transpose<perm = [1, 2, 0]>(x)",
    "transpose-default": "y = Transpose(x)",
    "reshape-splits-channels": "t = Constant<value_ints = [0, 0, 2, 2]>() y = Reshape(x, t)",
    "reshape-joins-tokens": "t = Constant<value_ints = [0, -1]>() y = Reshape(x, t)",
    "flatten": "y = Flatten<axis = 1>(x)",
    "unsqueeze": "a = Constant<value_ints = [0, 2]>() y = Unsqueeze(x, a)",
    "squeeze": "a = Constant<value_ints = [0]>() u = Unsqueeze(x, a) y = Squeeze(u, a)",
    "squeeze-all": "a = Constant<value_ints = [0]>() u = Unsqueeze(x, a) y = Squeeze(u)",
    "matmul-left": "y = MatMul(x, w)",
    "matmul-right": "q = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, q)",
    "matmul-vector": "y = MatMul(x, v)",
    "matmul-sums-samples": (
        "q = Transpose<perm = [1, 2, 0]>(x) a = Constant<value_ints = [1, 2]>() "
        "r = ReduceMean<keepdims = 0>(x, a) y = MatMul(q, r)"
    ),
    "gather-token": "i = Constant<value_int = 0>() y = Gather<axis = 1>(x, i)",
    "gather-tokens": "i = Constant<value_ints = [0, 1]>() y = Gather<axis = 1>(x, i)",
    "slice": (
        "s = Constant<value_ints = [0]>() e = Constant<value_ints = [2]>() a = Constant<value_ints = [1]>() "
        "y = Slice(x, s, e, a)"
    ),
    "concat": "y = Concat<axis = 1>(x, x)",
    "concat-samples": "y = Concat<axis = 0>(x, x)",
    "concat-channels": "y = Concat<axis = -1>(x, x)",
    "split": "y, z = Split<axis = 2, num_outputs = 2>(x)",
    "softmax": "y = Softmax<axis = -1>(x)",
    "layer-norm": "y = LayerNormalization(x, v)",
    "reduce-tokens": "a = Constant<value_ints = [1]>() y = ReduceMean<keepdims = 0>(x, a)",
    "reduce-kept": "a = Constant<value_ints = [-1]>() y = ReduceMean<keepdims = 1>(x, a)",
    "reduce-all": "y = ReduceMean<keepdims = 0>(x)",
    "argmax": "i = ArgMax<axis = 1, keepdims = 0>(x) y = Cast<to = 1>(i)",
    "broadcast": "y = Add(v, x)",
    "where": "c = Greater(x, v) y = Where(c, x, v)",
    "expand": "s = Constant<value_ints = [3, 1, 1, 1]>() y = Expand(x, s)",
    "einsum": 'y = Einsum<equation = "btc,cd->dtb">(x, w)',
    "conv": "t = Transpose<perm = [0, 2, 1]>(x) y = Conv(t, k)",
    "pool": "t = Transpose<perm = [0, 2, 1]>(x) y = GlobalAveragePool(t)",
    "gemm": "a = Constant<value_ints = [-1]>() r = ReduceMean<keepdims = 0>(x, a) y = Gemm(r, g)",
    "gemm-transposed": (
        "a = Constant<value_ints = [-1]>() r = ReduceMean<keepdims = 0>(x, a) q = Transpose(r) "
        "y = Gemm<transA = 1>(q, g)"
    ),
    "lstm": "t = Transpose<perm = [1, 0, 2]>(x) y = LSTM<hidden_size = 2>(t, lw, lr)",
    "fold-into-rows": "t = Constant<value_ints = [-1, 4]>() y = Reshape(x, t)",
    "size": "s = Shape(x) y = Cast<to = 1>(s)",
    "attention": "y = Softmax(x) z = MatMul(y, w)",
}
WEIGHTS = {"w": (4, 4), "v": (4,), "k": (2, 4, 1), "g": (6, 3), "lw": (1, 8, 4), "lr": (1, 8, 2)}


@pytest.mark.parametrize("body", CASES.values(), ids=CASES.keys())
def test_following_agrees_with_running(build: Build, body: str) -> None:
    """The same graph with a symbolic batch (seen in runs) and with a batch of five (followed)."""
    seen = build("float[B, 6, 4] x", "int64 n", WEIGHTS, f"{body} n = Size(y)").get(Axes)
    followed = build("float[5, 6, 4] x", "int64 n", WEIGHTS, f"{body} n = Size(y)").get(Axes)

    assert dict(followed.batch) == dict(seen.batch)


@pytest.mark.parametrize("name", ["fold-into-rows", "reduce-all", "size"])
def test_no_axis_where_samples_are_mixed(build: Build, name: str) -> None:
    axes = build("float[B, 6, 4] x", "int64 n", WEIGHTS, f"{CASES[name]} n = Size(y)").get(Axes)

    assert axes.batch_axis("y") is None


def test_batch_of_one_stays_the_first_of_several_single_axes(build: Build) -> None:
    body = """
        a = Constant<value_ints = [1]>() u = Unsqueeze(x, a)
        t = Constant<value_ints = [1, 1, 12]>() y = Reshape(u, t)
    """
    axes = build("float[1, 3, 4] x", "float[1, 1, 12] y", {}, body).get(Axes)

    assert axes.batch_axis("u") == 0
    assert axes.batch_axis("y") == 0


def test_batch_of_one_stays_the_second_of_several_single_axes(build: Build) -> None:
    body = """
        a = Constant<value_ints = [0]>() u = Unsqueeze(x, a)
        t = Constant<value_ints = [1, 1, 12]>() y = Reshape(u, t)
    """
    axes = build("float[1, 3, 4] x", "float[1, 1, 12] y", {}, body).get(Axes)

    assert axes.batch_axis("u") == 1
    assert axes.batch_axis("y") == 1


def test_tokens_of_symbolic_length(build: Build) -> None:
    body = "h = MatMul(x, w) k = Transpose<perm = [0, 2, 1]>(h) scores = MatMul(h, k) y = MatMul(scores, h)"
    axes = build("float[B, T, 4] x", "float[B, T, 4] y", {"w": (4, 4)}, body).get(Axes)

    assert [axes.token_axis(name) for name in ("x", "h", "k", "scores", "y")] == [1, 1, 2, 1, 1]


def test_tokens_of_fixed_length(build: Build) -> None:
    body = """
        n = LayerNormalization(x, v)
        h = MatMul(n, w)
        k = Transpose<perm = [0, 2, 1]>(h)
        scores = MatMul(h, k)
        i = Constant<value_int = 0>()
        first = Gather<axis = 1>(h, i)
        y = MatMul(first, w)
    """
    axes = build(
        "float[B, 6, 4] x", "float[B, 4] y, float[B, 6, 6] scores", {"w": (4, 4), "v": (4,)}, body
    ).get(Axes)

    assert [axes.token_axis(name) for name in ("x", "h", "k", "scores")] == [1, 1, 2, 1]
    assert axes.token_axis("first") is None


def test_an_image_has_no_tokens(build: Build) -> None:
    axes = build("float[B, 2, 6, 6] x", "float[B, 2, 6, 6] y", {"k": (2, 2, 1, 1)}, "y = Conv(x, k)").get(
        Axes
    )

    assert axes.token_axis("y") is None
    assert axes.batch_axis("y") == 0


SIZED = """
    b = Shape<start = 0, end = 1>(ids)
    t = Shape<start = 1, end = 2>(ids)
    both = Concat<axis = 0>(b, t)
    zero = Constant<value_int = 0>()
    one = Constant<value_int = 1>()
    no_axis = Constant<value_ints = [0]>()
    n = Squeeze(b, no_axis)
    rows = Range(zero, n, one)
    column = Constant<value_ints = [1]>()
    rows2 = Unsqueeze(rows, column)
    moved = Add(ids, rows2)
    f = Cast<to = 1>(ids)
    y = Reshape(f, both)
"""


def test_values_that_hold_the_batch_size_or_positions_in_it(build: Build) -> None:
    axes = build("int64[B, T] ids", "float[B, T] y, int64[B, T] moved", {}, SIZED).get(Axes)

    assert axes.batch_sized == {"b", "both", "n", "rows", "rows2", "moved"}
    assert not axes.is_batch_sized("t")
    assert not axes.is_batch_sized("ids")
    assert axes.batch_axis("rows2") == 0


def test_whole_numbers_with_the_batch_folded_in_cannot_be_gathered(build: Build) -> None:
    body = "all = Constant<value_ints = [-1]>() flat = Reshape(ids, all) y = Cast<to = 1>(flat)"
    axes = build("int64[B, T] ids", "float[N] y", {}, body).get(Axes)

    assert axes.is_batch_sized("flat")


def test_values_that_hold_a_fixed_batch_size(build: Build) -> None:
    axes = build("int64[2, 3] ids", "float[2, 3] y, int64[2, 3] moved", {}, SIZED).get(Axes)

    assert axes.is_batch_sized("both")
    assert axes.is_batch_sized("rows")
    assert not axes.is_batch_sized("t")
    assert not axes.is_batch_sized("ids")
