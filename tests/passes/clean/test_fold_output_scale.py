"""fold-output-scale: Mul(MatMul(x, w), s) -> MatMul(x, w * s)."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.fold_output_scale import FoldOutputScale

W = "float[2,2] w = {1, 2, 3, 4}"


@pytest.mark.parametrize(
    ("scale", "line", "folded"),
    [
        pytest.param("float s = {2}", "Mul(p, s)", "{2, 4, 6, 8}", id="one-scale"),
        pytest.param("float[2] s = {2, 10}", "Mul(p, s)", "{2, 20, 6, 40}", id="scale-per-column"),
        pytest.param("float s = {2}", "Mul(s, p)", "{2, 4, 6, 8}", id="scale-first"),
        pytest.param("float s = {2}", "Div(p, s)", "{0.5, 1, 1.5, 2}", id="division"),
    ],
)
def test_folds(scale: str, line: str, folded: str, fires: Any) -> None:
    fires(
        FoldOutputScale(),
        f"g (float[N,2] x) => (float[N,2] y) <{W}, {scale}> {{ p = MatMul(x, w) y = {line} }}",
        f"g (float[N,2] x) => (float[N,2] y) <float[2,2] p_weight = {folded}> {{ y = MatMul(x, p_weight) }}",
    )


def test_folds_into_weight_and_bias_of_a_convolution(fires: Any) -> None:
    fires(
        FoldOutputScale(),
        """g (float[N,1,2,2] x) => (float[N,2,2,2] y)
           <float[2,1,1,1] w = {1, 2}, float[2] b = {3, 4}, float[1,2,1,1] s = {2, 10}>
           { p = Conv(x, w, b) y = Mul(p, s) }""",
        """g (float[N,1,2,2] x) => (float[N,2,2,2] y)
           <float[2,1,1,1] p_weight = {2, 20}, float[2] p_bias = {6, 40}> { y = Conv(x, p_weight, p_bias)
             }""",
    )


def test_scales_the_rows_of_a_transposed_weight(fires: Any) -> None:
    fires(
        FoldOutputScale(),
        f"g (float[N,2] x) => (float[N,2] y) <{W}, float[2] s = {{2, 10}}> {{ p = Gemm<transB = "
        f"1>(x, w) y = Mul(p, s) }}",
        """g (float[N,2] x) => (float[N,2] y) <float[2,2] p_weight = {2, 4, 30, 40}>
           { y = Gemm<transB = 1>(x, p_weight) }""",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            f"g (float[N,2] x) => (float[N,2] y, float[N,2] p) <{W}, float s = {{2}}> {{ p = "
            f"MatMul(x, w) y = Mul(p, s) }}",
            "the unscaled product has another reader",
            id="product-is-returned",
        ),
        pytest.param(
            f"g (float[2,2] x) => (float[2,2] y) <{W}, float[2,1] s = {{2, 3}}> {{ p = MatMul(x, w) "
            f"y = Mul(p, s) }}",
            "the factor does not scale whole output channels",
            id="scale-per-row",
        ),
        pytest.param(
            f"g (float[N,2] x) => (float[N,2] y) <{W}, float s = {{3e38}}> {{ p = MatMul(x, w) y = "
            f"Mul(p, s) }}",
            "the scaled weight overflows",
            id="overflow",
        ),
        pytest.param(
            "g (float[N,2] x, float[2,2] w) => (float[N,2] y) <float s = {2}> "
            "{ p = MatMul(x, w) y = Mul(p, s) }",
            "the weight or the bias is not constant",
            id="weight-is-an-input",
        ),
        pytest.param(
            f"g (float[N,2] x) => (float[1,N,2] y) <{W}, float[1,1,1] s = {{2}}> "
            f"{{ p = MatMul(x, w) y = Mul(p, s) }}",
            "the factor does not scale whole output channels",
            id="factor-adds-a-dimension",
        ),
        pytest.param(
            "g (float[N,2] x) => (float[N,2] y) <float s = {2}> { p = Relu(x) y = Mul(p, s) }",
            "the scaled value is not a linear operator",
            id="not-linear",
        ),
        pytest.param(
            f"g (float[N,2] x) => (float[N,2] y) <{W}, float s = {{2}}> {{ p = MatMul(x, w) y = Div(s, p) }}",
            "no constant factor",
            id="division-by-the-product",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str, declines: Any) -> None:
    declines(FoldOutputScale(), text, reason)


def test_respects_the_size_limit(declines: Any) -> None:
    text = f"g (float[N,2] x) => (float[N,2] y) <{W}, float s = {{2}}> {{ p = MatMul(x, w) y = Mul(p, s) }}"
    declines(FoldOutputScale(max_weight_elements=3), text, "the weight is above max_weight_elements")
