"""merge-parallel-matmuls: products of one input become one wide product."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.merge_parallel_matmuls import TOO_FEW, MergeParallelMatmuls

TWO = """g (float[N,2] x) => (float[N,3] y) <float[2,1] v = {1, 2}, float[2,3] w = {3, 4, 5, 6, 7, 8}>
         { r = Relu(x) a = MatMul(r, v) b = MatMul(r, w) y = Add(a, b) }"""


def test_joins(fires: Any) -> None:
    fires(
        MergeParallelMatmuls(),
        TWO,
        """g (float[N,2] x) => (float[N,3] y)
           <float[2,4] a_weights = {1, 3, 4, 5, 2, 6, 7, 8}, int64[2] a_widths = {1, 3}>
           { r = Relu(x) a_joined = MatMul(r, a_weights) a, b = Split<axis = -1>(a_joined, a_widths) y =
             Add(a, b) }""",
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "g (float[N,2] x, float[2,1] v) => (float[N,1] y) <float[2,1] w = {3, 4}> "
            "{ a = MatMul(x, v) b = MatMul(x, w) y = Add(a, b) }",
            id="one-weight-is-an-input",
        ),
        pytest.param(
            "g (float[N,2] x) => (float[N,1] y) <float[2,1] w = {3, 4}> "
            "{ r = Relu(x) a = MatMul(x, w) b = MatMul(r, w) y = Add(a, b) }",
            id="other-inputs",
        ),
    ],
)
def test_leaves_single_products_alone(text: str, declines: Any) -> None:
    declines(MergeParallelMatmuls(), text, TOO_FEW)


def test_respects_the_smallest_count(declines: Any) -> None:
    declines(MergeParallelMatmuls(min_count=3), TWO, TOO_FEW)


def test_needs_split_by_sizes(declines: Any) -> None:
    declines(MergeParallelMatmuls(), TWO, "the opset has no Split by sizes", opset=12)
