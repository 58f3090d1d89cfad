"""fuse-layer-norm: the written-out normalisation becomes LayerNormalization."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.fuse_layer_norm import FuseLayerNorm

CONSTANTS = """int64[1] last = {-1}, float eps = {0.5}, float two = {2}, float[4] g = {1, 2, 3, 4},
               float[4] b = {4, 3, 2, 1}"""
MEAN = "m = ReduceMean(r, last) d = Sub(r, m) "


def _with(lines: str) -> str:
    return f"f (float[N,3,4] x) => (float[N,3,4] y) <{CONSTANTS}> {{ r = Neg(x) {lines} }}"


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        pytest.param(
            MEAN + "q = Mul(d, d) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) t = "
            "Mul(n, g) y = Add(t, b)",
            "<float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}> "
            "{ r = Neg(x) y = LayerNormalization<axis = -1, epsilon = 0.5>(r, g, b) }",
            id="scale-and-bias",
        ),
        pytest.param(
            MEAN + "q = Pow(d, two) v = ReduceMean(q, last) e = Add(eps, v) s = Sqrt(e) i = "
            "Reciprocal(s) n = Mul(i, d) y = Mul(g, n)",
            "<float[4] g = {1, 2, 3, 4}> "
            "{ r = Neg(x) y = LayerNormalization<axis = -1, epsilon = 0.5>(r, g) }",
            id="power-and-reciprocal-without-bias",
        ),
    ],
)
def test_fuses(lines: str, after: str, fires: Any) -> None:
    fires(FuseLayerNorm(), _with(lines), f"f (float[N,3,4] x) => (float[N,3,4] y) {after}")


def test_leaves_a_residual_outside(fires: Any) -> None:
    """The rule of onnxscript would take the residual for the bias."""
    lines = (
        MEAN + "q = Mul(d, d) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) t = "
        "Mul(n, g) y = Add(t, x)"
    )
    fires(
        FuseLayerNorm(),
        _with(lines),
        """f (float[N,3,4] x) => (float[N,3,4] y) <float[4] g = {1, 2, 3, 4}>
           { r = Neg(x) t = LayerNormalization<axis = -1, epsilon = 0.5>(r, g) y = Add(t, x) }""",
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param(
            MEAN + "q = Mul(d, d) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) y = "
            "Mul(n, eps)",
            "not scaled by a constant vector along the last axis",
            id="scaled-by-a-number",
        ),
        pytest.param(
            MEAN
            + "q = Mul(r, r) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) y = Mul(n, g)",
            "what is under the root is not the variance plus a constant",
            id="mean-square-instead-of-variance",
        ),
        pytest.param(
            "m = ReduceMean(x, last) d = Sub(r, m) q = Mul(d, d) v = ReduceMean(q, last) e = Add(v, "
            "eps) s = Sqrt(e) "
            "n = Div(d, s) y = Mul(n, g)",
            "what is subtracted is not the mean over the last axis",
            id="mean-of-something-else",
        ),
        pytest.param("y = Mul(r, g)", "not a normalised value, scaled", id="just-scaled"),
    ],
)
def test_leaves_alone_and_says_why(lines: str, reason: str, declines: Any) -> None:
    declines(FuseLayerNorm(), _with(lines), reason)


def test_needs_an_opset_with_layer_normalization(declines: Any) -> None:
    declines(FuseLayerNorm(), _with("y = Mul(r, g)"), "the opset has no LayerNormalization", opset=16)
