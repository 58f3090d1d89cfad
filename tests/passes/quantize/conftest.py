"""Small models and data for the tests of 8-bit quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.budgeted import Array
from adapass.graph.text import parse
from tests.passes.rows import Rows, literal, weight

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'


@pytest.fixture
def mlp() -> ir.Model:
    """Two products with different biases, any batch and length: [N, L, 16] -> [N, L, 8]."""
    return parse(
        f"""
        {HEADER}
        mlp (float[N, L, 16] x) => (float[N, L, 8] y)
        <float[16, 24] w1 = {literal(weight(1, 16, 24))}, float[24] b1 = {literal(weight(2, 24))},
         float[24, 8] w2 = {literal(weight(3, 24, 8))}, float[8] b2 = {literal(weight(4, 8))}>
        {{
            p1 = MatMul(x, w1)
            s1 = Add(p1, b1)
            h = Gelu(s1)
            p2 = MatMul(h, w2)
            y = Add(p2, b2)
        }}
        """
    )


@pytest.fixture
def residual_net() -> ir.Model:
    """Three convolutions, one around a residual, a downsampling shortcut, pooling and a Gemm."""
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, 8, 8] image) => (float[N, 10] logits)
        <float[16, 3, 3, 3] w1 = {literal(weight(1, 16, 3, 3, 3))}, float[16] b1 = {literal(weight(2, 16))},
         float[16, 16, 3, 3] w2 = {literal(weight(3, 16, 16, 3, 3) / 8)},
         float[16] b2 = {literal(weight(4, 16))},
         float[16, 16, 3, 3] w3 = {literal(weight(5, 16, 16, 3, 3) / 8)},
         float[10, 16] w4 = {literal(weight(6, 10, 16))}, float[10] b4 = {literal(weight(7, 10))}>
        {{
            c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
            r1 = Relu(c1)
            c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
            a2 = Add(r1, c2)
            r2 = Relu(a2)
            m2 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r2)
            c3 = Conv<pads = [1, 1, 1, 1]>(m2, w3)
            r3 = Relu(c3)
            g = GlobalAveragePool(r3)
            f = Flatten(g)
            logits = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(f, w4, b4)
        }}
        """
    )


@pytest.fixture
def rows() -> Rows:
    return Rows({"x": weight(10, 40, 5, 16)})


@pytest.fixture
def images() -> Rows:
    return Rows({"image": weight(11, 40, 3, 8, 8)})


@pytest.fixture
def make_samples() -> Callable[[Mapping[str, Array]], Rows]:
    return Rows
