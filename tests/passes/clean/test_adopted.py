"""The passes that run rules of onnxscript: they fire, decline with a reason, and respect defaults."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.adopted import OLD_OPSET, REFUSED
from adapass.passes.clean.fuse_pad_into_conv import FusePadIntoConv
from adapass.passes.clean.merge_layout_chains import MergeLayoutChains
from adapass.passes.clean.remove_redundant_expands import RemoveRedundantExpands
from adapass.passes.clean.remove_redundant_scatters import RemoveRedundantScatters
from adapass.passes.clean.remove_zero_bias import RemoveZeroBias
from adapass.rewrite import Pass

PAD = """g (float[N,1,4,4] x) => (float[N,1,H,W] y) <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, int64[8] p =
      {%s}>
         { q = Pad(x, p) y = Conv(q, w) }"""


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        pytest.param(
            MergeLayoutChains(),
            "g (float[N,3,4] x) => (float[A,B,C] y) "
            "{ t = Transpose<perm = [1, 0, 2]>(x) y = Transpose<perm = [0, 2, 1]>(t) }",
            "g (float[N,3,4] x) => (float[A,B,C] y) { y = Transpose<perm = [1, 2, 0]>(x) }",
            id="two-transposes",
        ),
        pytest.param(
            FusePadIntoConv(),
            PAD % "0,0,1,1,0,0,1,1",
            """g (float[N,1,4,4] x) => (float[N,1,H,W] y) <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}>
               { y = Conv<pads = [1, 1, 1, 1]>(x, w) }""",
            id="zero-padding",
        ),
        pytest.param(
            RemoveRedundantExpands(),
            "g (float[8] b, float[4,8] x) => (float[4,8] y) <int64[2] s = {4, 8}> "
            "{ e = Expand(b, s) y = Add(e, x) }",
            "g (float[8] b, float[4,8] x) => (float[4,8] y) { y = Add(b, x) }",
            id="expand-in-front-of-a-sum",
        ),
        pytest.param(
            RemoveZeroBias(),
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {0, 0}> "
            "{ y = Gemm(x, w, b) }",
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> { y = Gemm(x, w) }",
            id="zero-bias",
        ),
    ],
)
def test_fires(step: Pass, before: str, after: str, fires: Any) -> None:
    fires(step, before, after)


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        pytest.param(FusePadIntoConv(), PAD % "0,1,1,1,0,0,1,1", REFUSED, id="channels-are-padded"),
        pytest.param(
            RemoveRedundantExpands(),
            "g (float[8] b, float[1,8] x) => (float[4,8] y) <int64[2] s = {4, 8}> "
            "{ e = Expand(b, s) y = Add(e, x) }",
            REFUSED,
            id="expand-broadens-the-sum",
        ),
        pytest.param(
            RemoveZeroBias(),
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {0, 1}> "
            "{ y = Gemm(x, w, b) }",
            REFUSED,
            id="bias-is-not-zero",
        ),
        pytest.param(
            RemoveZeroBias(),
            "g (float[N,2] x, float[2] b) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] "
            "b = {0, 0}> { y = Gemm(x, w, b) }",
            REFUSED,
            id="bias-is-a-default",
        ),
        pytest.param(
            RemoveRedundantScatters(),
            """g (float[3,2] d, float[2,2] u) => (float[3,2] y) <int64[2,1] i = {0, 1}> { y =
              ScatterND(d, i, u) }""",
            REFUSED,
            id="scatter-of-some-rows",
        ),
    ],
)
def test_declines(step: Pass, text: str, reason: str, declines: Any) -> None:
    declines(step, text, reason)


def test_knows_only_recent_forms_of_operators(declines: Any) -> None:
    declines(
        RemoveZeroBias(),
        "g (float[N,2] x, float[2,2] w) => (float[N,2] y) <float[2] b = {0, 0}> { y = Gemm(x, w, b) }",
        OLD_OPSET,
        opset=12,
    )


def test_scatter_of_all_rows_leaves_an_identity(fires: Any) -> None:
    fires(
        RemoveRedundantScatters(),
        "g (float[2,2] d, float[2,2] u) => (float[2,2] y) <int64[2,1] i = {0, 1}> { y = ScatterND(d, i, u) }",
        "g (float[2,2] d, float[2,2] u) => (float[2,2] y) { y = Identity(u) }",
    )
