"""Work: operations and bytes, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapass.analyses.dataflow import Dataflow
from adapass.analyses.work import NodeWork, Work
from adapass.facts import FactCache

Build = Callable[..., FactCache]


def test_a_product_at_given_sizes(build: Build) -> None:
    work = build("float[B, T, 4] x", "float[B, T, 2] y", {"w": (4, 2)}, "y = MatMul(x, w)").get(Work)

    assert work.at(batch=3, tokens=5) == (
        NodeWork(2 * 3 * 5 * 4 * 2, 3 * 5 * 4 * 4, 3 * 5 * 2 * 4, 4 * 2 * 4),
    )


FLOPS = {
    "conv": ("y = Conv<pads = [1, 1, 1, 1]>(x, k)", 2 * 5 * 64 * 3 * 9),
    "grouped-conv": ("y = Conv<group = 3, pads = [1, 1, 1, 1]>(x, d)", 2 * 3 * 64 * 9),
    "conv-transpose": ("y = ConvTranspose<strides = [2, 2]>(x, u)", 2 * 3 * 64 * 5 * 4),
    "pool": ("y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)", 3 * 16 * 4),
    "relu": ("y = Relu(x)", 3 * 64),
    "transpose": ("y = Transpose(x)", 0),
    "gemm-transposed": ("f = Flatten<axis = 2>(x) y = Gemm<transA = 1>(f, g)", 2 * 3 * 64 * 7),
    "einsum": ('y = Einsum<equation = "bchw,cd->bdhw">(x, e)', 2 * 3 * 64 * 6),
    "lstm": (
        "a = Constant<value_ints = [1]>() s = Reshape(x, t) y = LSTM<hidden_size = 2>(s, lw, lr)",
        2 * 6 * 4 * 8 * 10,
    ),
}
WEIGHTS = {
    "k": (5, 3, 3, 3), "d": (3, 1, 3, 3), "u": (3, 5, 2, 2), "g": (3, 7), "e": (3, 6),
    "lw": (1, 8, 8), "lr": (1, 8, 2),
}  # fmt: skip


@pytest.mark.parametrize(("body", "flops"), FLOPS.values(), ids=FLOPS.keys())
def test_operations(build: Build, body: str, flops: int) -> None:
    body = f"t = Constant<value_ints = [6, 4, 8]>() {body} n = Size(y)"
    facts = build("float[1, 3, 8, 8] x", "int64 n", WEIGHTS, body)

    assert facts.get(Work).of(range(len(facts.get(Dataflow).nodes))).flops == flops


def test_views_and_lookups_move_only_what_they_touch(build: Build) -> None:
    body = "axis = Constant<value_ints = [0]>() e = Gather(table, ids) y = Unsqueeze(e, axis)"
    work = build("int64[B, T] ids", "float[1, B, T, 4] y", {"table": (100, 4)}, body).get(Work)

    assert work.at(batch=2, tokens=3) == (NodeWork(0, 96, 96, 0), NodeWork())


def test_weights_computed_from_stored_ones_count(build: Build) -> None:
    body = "h = Cast<to = 10>(w) v = Cast<to = 1>(h) y = MatMul(x, v)"
    work = build("float[1, 4] x", "float[1, 2] y", {"w": (4, 2)}, body).get(Work)

    assert work.typical[0].weight_bytes == 32
    assert work.typical[0].flops == 16


def test_sums(build: Build) -> None:
    work = build("float[B, 4] x", "float[B, 4] y", {}, "a = Relu(x) b = Relu(a) y = Relu(b)").get(Work)

    assert work.of([0, 2]) == work.typical[0] + work.typical[2]
    assert work.of([0], batch=10).flops == 40
