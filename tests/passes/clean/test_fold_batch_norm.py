"""fold-batch-norm: BatchNormalization goes into the weights in front of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.facts import FactCache
from adapass.graph.text import clone, parse
from adapass.passes.clean.fold_batch_norm import FoldBatchNorm
from adapass.verification import compare

STATISTICS = "float[2] s = {2, 4}, float[2] b = {1, 1}, float[2] m = {3, 5}, float[2] v = {3, 15}"
NORM = "BatchNormalization<epsilon = 1.0>({0}, s, b, m, v)"


def _norm(value: str) -> str:
    return NORM.replace("{0}", value)


def test_folds_into_a_matrix_product(fires: Any) -> None:
    """The factors are 2/sqrt(4) = 1 and 4/sqrt(16) = 1; the shifts 1 - 3 and 1 - 5."""
    fires(
        FoldBatchNorm(),
        f"g (float[N,1] x) => (float[N,2] y) <float[1,2] w = {{1, 2}}, {STATISTICS}> {{ p = "
        f"MatMul(x, w) y = {_norm('p')} }}",
        """g (float[N,1] x) => (float[N,2] y) <float[1,2] p_weight = {1, 2}, float[2] p_bias = {-2, -4}>
           { y_1 = MatMul(x, p_weight) y = Add(y_1, p_bias) }""",
    )


def test_folds_into_a_convolution(fires: Any) -> None:
    fires(
        FoldBatchNorm(),
        f"""g (float[N,1,3,3] x) => (float[N,2,3,3] y) <float[2,1,1,1] w = {{1, 2}}, float[2] c = {{1,
          1}}, {STATISTICS}>
            {{ p = Conv(x, w, c) y = {_norm("p")} }}""",
        """g (float[N,1,3,3] x) => (float[N,2,3,3] y) <float[2,1,1,1] p_weight = {1, 2}, float[2] p_bias
          = {-1, -3}>
           { y = Conv(x, p_weight, p_bias) }""",
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    groups=st.sampled_from([1, 2]),
    kind=st.sampled_from(["Conv", "ConvTranspose", "Gemm"]),
)
def test_keeps_the_numbers(seed: int, groups: int, kind: str) -> None:
    model = _random_model(seed, groups, kind)
    folded = clone(model)

    result = FoldBatchNorm().run(folded, FactCache(folded))

    assert result.applied == 1
    assert compare(model, folded).worst().relative_max < 1e-4


def _random_model(seed: int, groups: int, kind: str) -> ir.Model:
    random = np.random.default_rng(seed)
    shape: tuple[int, ...]
    if kind == "Gemm":
        shape, data, out, attributes = (
            (4, 6),
            "float[N,6] x",
            "float[N,4] y",
            "<transB = 1, alpha = 0.5, beta = 2.0>",
        )
    elif kind == "Conv":
        shape, attributes = (4, 6 // groups, 2, 2), f"<group = {groups}>"
        data, out = "float[N,6,5,5] x", "float[N,4,4,4] y"
    else:
        shape, attributes = (6, 4 // groups, 2, 2), f"<group = {groups}>"
        data, out = "float[N,6,3,3] x", "float[N,4,4,4] y"

    def stored(name: str, array: Any) -> str:
        dims = ",".join(str(size) for size in array.shape)
        numbers = ",".join(repr(float(np.float32(value))) for value in array.reshape(-1))
        return f"float[{dims}] {name} = {{{numbers}}}"

    constants = [stored("w", random.standard_normal(shape)), stored("c", random.standard_normal(4))]
    constants += [stored(name, random.standard_normal(4)) for name in "sbm"]
    constants += [stored("v", random.uniform(0.1, 2, 4))]
    return parse(
        f"""<ir_version: 10, opset_import: ["" : 20]> g ({data}) => ({out}) <{",".join(constants)}>
            {{ p = {kind}{attributes}(x, w, c) y = BatchNormalization(p, s, b, m, v) }}"""
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            f"g (float[N,2] x) => (float[N,2] y) <{STATISTICS}> {{ p = Relu(x) y = {_norm('p')} }}",
            "nothing linear computes the normalised value",
            id="not-linear",
        ),
        pytest.param(
            f"g (float[N,1] x) => (float[N,2] y, float[N,2] p) <float[1,2] w = {{1, 2}}, "
            f"{STATISTICS}> {{ p = MatMul(x, w) y = {_norm('p')} }}",
            "the unnormalised value has another reader",
            id="product-is-returned",
        ),
        pytest.param(
            f"g (float[N,1] x, float[1,2] w) => (float[N,2] y) <{STATISTICS}> {{ p = MatMul(x, w) y "
            f"= {_norm('p')} }}",
            "the weight or the bias is not constant",
            id="weight-is-an-input",
        ),
        pytest.param(
            f"g (float[N,2,1] x) => (float[N,2,2] y) <float[1,2] w = {{1, 2}}, {STATISTICS}> {{ p = "
            f"MatMul(x, w) y = {_norm('p')} }}",
            "the channels of the normalisation are not the columns of the product",
            id="channels-are-rows",
        ),
        pytest.param(
            f"""g (float[2,1] x) => (float[2,2] y)
                <float[1,2] w = {{1, 2}}, float[2,1] c = {{1, 2}}, {STATISTICS}>
                {{ p = Gemm(x, w, c) y = {_norm("p")} }}""",
            "the weight or the bias is not constant",
            id="bias-per-row",
        ),
        pytest.param(
            """g (float[N,1] x, float[2] s) => (float[N,2] y) <float[1,2] w = {1, 2}, float[2] b = {1, 1}>
               { p = MatMul(x, w) y = BatchNormalization(p, s, b, b, b) }""",
            "a statistic of the normalisation is not constant",
            id="statistic-is-an-input",
        ),
        pytest.param(
            """g (float[N,1] x) => (float[N,2] y) <float[1,2] w = {1e38, 2}, float[2] b = {1e3, 1},
              float[2] v = {0, 0}>
               { p = MatMul(x, w) y = BatchNormalization(p, b, b, b, v) }""",
            "the folded weight is not finite",
            id="overflow",
        ),
        pytest.param(
            """g (float[N,1] x) => (float[N,2] y, float[2] a, float[2] c) <float[1,2] w = {1, 2},
              float[2] b = {1, 1}>
               { p = MatMul(x, w) y, a, c = BatchNormalization<training_mode = 1>(p, b, b, b, b) }""",
            "the normalisation is in training mode",
            id="training",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str, declines: Any) -> None:
    declines(FoldBatchNorm(), text, reason)
