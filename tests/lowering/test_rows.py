"""What is known of each value when samples leave the batch."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from adapass.lowering.exits import prepare
from adapass.lowering.mixing import mixes_samples
from adapass.lowering.rows import Kind, Rows, classify

Make = Callable[[str, int], ir.Model]


def kinds(rows: Rows) -> dict[str, Kind]:
    return {str(value.name): kind for value, kind in rows.kinds.items()}


@pytest.mark.parametrize(
    ("family", "value", "kind"),
    [
        ("mlp", "x_0", Kind.ROWS),
        ("mlp", "limit_0", None),
        ("tokens", "mask", Kind.ROWS),
        ("tokens", "padding_4", Kind.ROWS),
        ("tokens", "shape", Kind.SIZED),
        ("tokens", "split", Kind.SIZED),
        ("tokens", "time", None),
        ("row_numbers", "numbers", Kind.SIZED),
        ("row_numbers", "length", Kind.ROWS),
        ("row_numbers", "places", Kind.LOCAL),
        ("row_numbers", "pooled_0", Kind.ROWS),
        ("folded", "flat_0", Kind.LOCAL),
        ("folded", "y_0", Kind.ROWS),
        ("patience", "count_start", Kind.ROWS),
        ("averaged", "mean", Kind.MIXED),
        ("averaged", "tail", Kind.ROWS),
    ],
)
def test_kinds(make: Make, family: str, value: str, kind: Kind | None) -> None:
    """``None``: does not depend on the batch."""
    found = kinds(classify(prepare(make(family, 1), keep_selects=True)))

    assert found.get(value) is kind


def test_knows_a_batch_that_is_not_the_first_axis(make: Make) -> None:
    rows = classify(prepare(make("time_first", 1), keep_selects=True))

    assert {str(value.name): axis for value, axis in rows.axes.items()}["x_0"] == 1


@pytest.mark.parametrize(
    ("text", "mixes"),
    [
        ("y = Softmax<axis = -1>(x)", False),
        ("y = Softmax<axis = 0>(x)", True),
        ("y = LayerNormalization<axis = -1>(x, w)", False),
        ("y = LayerNormalization<axis = 0>(x, w)", True),
        ("y = CumSum(x, first)", True),
        ("y = CumSum(x, second)", False),
        ("y = MatMul(x, w)", False),
        ("y = MatMul(w, x)", True),
        ("y = Gemm(x, w)", False),
        ("y = Gemm<transA = 1>(x, w)", True),
        ("y = Gemm<transB = 1>(w, x)", False),
        ("y = Gemm(w, x)", True),
        ("y, i = TopK<axis = 0>(x, one)", True),
        ("y, i = TopK<axis = 1>(x, one)", False),
        ("y = Slice(x, zero_1, one, zero_1)", True),
        ("y = Slice(x, zero_1, one, one)", False),
        ("y = Add(x, w)", False),
    ],
)
def test_operators_that_work_across_samples(text: str, mixes: bool) -> None:
    """``x`` is [B, 4]."""
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (float[B, 4] x) => (float y) <float[4] w = {1, 1, 1, 1}, int64 first = {0}, int64 second = {1},"
        f" int64[1] one = {{1}}, int64[1] zero_1 = {{0}}> {{ {text} }}"
    )
    node = next(iter(model.graph))

    assert mixes_samples(node, lambda value: frozenset({0} if value.name == "x" else ()), 20) is mixes


def test_an_old_softmax_runs_over_all_axes_from_its_axis_on() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 7, opset_import: ["" : 11]>\n'
        "g (float[T, B, 4] x) => (float y) { y = Softmax<axis = 0>(x) }"
    )
    node = next(iter(model.graph))

    assert mixes_samples(node, lambda value: frozenset({1} if value.name == "x" else ()), 11)
    assert not mixes_samples(node, lambda value: frozenset({1} if value.name == "x" else ()), 13)
