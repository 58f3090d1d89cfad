"""fuse-gelu: the written-out GELU becomes Gelu."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.fuse_gelu import FuseGelu

CONSTANTS = """float root = {1.4142135}, float inverse = {0.70710678}, float one = {1}, float half = {0.5},
               float[1,1,1] cube = {1.4142135}"""
AFTER = "g (float[N,4] x) => (float[N,4] y) { r = Neg(x) y = Gelu(r) }"


def _with(lines: str) -> str:
    return f"g (float[N,4] x) => (float[N,4] y) <{CONSTANTS}> {{ r = Neg(x) {lines} }}"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            "d = Div(r, root) e = Erf(d) a = Add(e, one) p = Mul(r, a) y = Mul(p, half)", id="torch"
        ),
        pytest.param(
            "d = Mul(r, inverse) e = Erf(d) a = Add(one, e) h = Mul(r, half) y = Mul(h, a)", id="half-first"
        ),
        pytest.param(
            "d = Mul(inverse, r) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(r, h)", id="half-inside"
        ),
    ],
)
def test_fuses(lines: str, fires: Any) -> None:
    fires(FuseGelu(), _with(lines), AFTER)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param(
            "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(r, a) y = Mul(p, half)",
            "the other factor is not one plus an error function",
            id="of-another-value",
        ),
        pytest.param(
            "d = Div(r, cube) e = Erf(d) a = Add(e, one) p = Mul(r, a) q = Mul(p, half) y = Squeeze(q)",
            "the other factor is not one plus an error function",
            id="constant-with-more-dimensions",
        ),
        pytest.param(
            "d = Div(root, r) e = Erf(d) a = Add(e, one) p = Mul(r, a) y = Mul(p, half)",
            "the other factor is not one plus an error function",
            id="division-the-other-way",
        ),
        pytest.param(
            "d = Div(r, root) e = Erf(d) a = Add(e, one) p = Mul(r, a) y = Mul(p, one)",
            "not a product of one half and two values",
            id="not-halved",
        ),
    ],
)
def test_leaves_alone_and_says_why(lines: str, reason: str, declines: Any) -> None:
    declines(FuseGelu(), _with(lines), reason)


def test_needs_an_opset_with_gelu(declines: Any) -> None:
    lines = "d = Div(r, root) e = Erf(d) a = Add(e, one) p = Mul(r, a) y = Mul(p, half)"
    declines(FuseGelu(), _with(lines), "the opset has no Gelu", opset=19)
