"""Which products quantize-8bit refuses, and why."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.graph.edit import constant_array, new_initializer
from adapass.graph.text import parse
from adapass.passes.quantize.sites import Limits, find_sites

LIMITS = Limits(matmul_elements=4, conv_elements=4)
OPSET_20 = '<ir_version: 10, opset_import: ["" : 20]>'
MATRIX = "<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}>"


def model(
    body: str, initializers: str = MATRIX, inputs: str = "float[N, 2] x", header: str = OPSET_20
) -> str:
    return f"{header} g ({inputs}) => (float[N, 2] y) {initializers} {{ {body} }}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            model("y = MatMul(x, v)", "", "float[N, 2] x, float[2, 2] v"),
            "no operand is a constant weight",
            id="weight-is-an-input",
        ),
        pytest.param(
            model("y = MatMul(w, x)", inputs="float[2, 2] x"),
            "the constant operand is on the left",
            id="constant-on-the-left",
        ),
        pytest.param(
            model("y = MatMul(x, w)", "<float[2, 1] w = {1.0, 2.0}>").replace(
                "float[N, 2] y", "float[N, 1] y"
            ),
            "the weight is too small to pay for the conversions",
            id="small",
        ),
        pytest.param(
            model("y = MatMul(x, w)", "<double[2, 2] w = {1.0, 2.0, 3.0, 4.0}>", "double[N, 2] x").replace(
                "float[N, 2] y", "double[N, 2] y"
            ),
            "the weight is not float32",
            id="double",
        ),
        pytest.param(
            model("y = MatMul(x, w)", "<float[4] w = {1.0, 2.0, 3.0, 4.0}>", "float[N, 2, 4] x"),
            "the weight is not a matrix",
            id="vector",
        ),
        pytest.param(
            model("y = Gemm<transA = 1>(x, w)", inputs="float[2, N] x"),
            "the activation is transposed",
            id="transposed-activation",
        ),
        pytest.param(
            model("y = Gemm(x, w, c)", inputs="float[N, 2] x, float[2] c"),
            "the bias is not one constant a channel",
            id="bias-is-an-input",
        ),
        pytest.param(
            model("y = MatMul(x, w)", header='<ir_version: 7, opset_import: ["" : 12]>'),
            "the opset is below 13, which has no scale per channel",
            id="old-opset",
        ),
        pytest.param(
            f"""{OPSET_20} g (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y)
            <float[2, 2, 1, 1] w = {{1.0, 2.0, 3.0, 4.0}}> {{ y = ConvTranspose(x, w) }}""",
            "ConvTranspose has no 8-bit kernel in ONNX Runtime",
            id="transposed-convolution",
        ),
        pytest.param(
            model(
                "y = If <then_branch = t () => (float[N, 2] a) { a = MatMul(x, w) }, "
                "else_branch = e () => (float[N, 2] b) { b = Identity(x) }> (c)",
                inputs="float[N, 2] x, bool c",
            ),
            "inside a subgraph or a function",
            id="in-a-branch",
        ),
    ],
)
def test_declines_and_says_why(text: str, reason: str) -> None:
    sites, refusals = find_sites(parse(text), LIMITS, frozenset())

    assert sites == ()
    assert [refusal.reason for refusal in refusals] == [reason]


def test_leaves_listed_sites_alone() -> None:
    _, refusals = find_sites(parse(model("y = MatMul(x, w)")), LIMITS, frozenset({"y"}))

    assert [(r.site, r.reason) for r in refusals] == [("y", "listed in skip_sites")]


@pytest.mark.parametrize(
    ("operand", "reason"),
    [(1, "the weight has numbers that are not finite"), (2, "the bias has numbers that are not finite")],
)
def test_declines_numbers_that_are_not_finite(operand: int, reason: str) -> None:
    broken = parse(
        model("y = Gemm(x, w, b)", "<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {1.0, 2.0}>")
    )
    node = broken.graph.node(0)
    value = node.inputs[operand]
    assert value is not None
    bad = np.full_like(constant_array(value), np.inf)
    node.replace_input_with(operand, new_initializer(broken.graph, "bad", bad))

    assert [r.reason for r in find_sites(broken, LIMITS, frozenset())[1]] == [reason]


def test_takes_alpha_and_beta_into_the_constants() -> None:
    text = model(
        "y = Gemm<alpha = 0.5, beta = 3.0, transB = 1>(x, w, b)",
        "<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[1] b = {2.0}>",
    )

    (site,), _ = find_sites(parse(text), LIMITS, frozenset())

    np.testing.assert_array_equal(site.weight, [[0.5, 1.0], [1.5, 2.0]])
    assert site.bias is not None
    np.testing.assert_array_equal(site.bias, [6.0, 6.0])
    assert site.channel_axis == 0
