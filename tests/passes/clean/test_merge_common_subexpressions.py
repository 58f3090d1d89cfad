"""merge-common-subexpressions: equal nodes and equal constants once."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.merge_common_subexpressions import MergeCommonSubexpressions


def test_merges_equal_chains(fires: Any) -> None:
    fires(
        MergeCommonSubexpressions(),
        "g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Relu(x) c = Exp(a) d = Exp(b) y = Add(c, d) }",
        "g (float[N,4] x) => (float[N,4] y) { a = Relu(x) c = Exp(a) y = Add(c, c) }",
    )


def test_merges_equal_initializers(fires: Any) -> None:
    fires(
        MergeCommonSubexpressions(),
        """g (float[N,2] x) => (float[N,2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}>
           { a = Add(x, v) y = Mul(a, w) }""",
        "g (float[N,2] x) => (float[N,2] y) <float[2] v = {1, 2}> { a = Add(x, v) y = Mul(a, v) }",
    )


def test_reuses_the_outer_value_in_a_branch(fires: Any) -> None:
    fires(
        MergeCommonSubexpressions(),
        """g (bool c, float[4] x) => (float[4] y, float[4] z) { r = Relu(x) z = Neg(r)
             y = If (c) <then_branch = t () => (float[4] a) { s = Relu(x) a = Exp(s) },
                         else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
        """g (bool c, float[4] x) => (float[4] y, float[4] z) { r = Relu(x) z = Neg(r)
             y = If (c) <then_branch = t () => (float[4] a) { a = Exp(r) },
                         else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "g (float[N,4] x) => (float[N,4] a, float[N,4] b) { a = Relu(x) b = Relu(x) }",
            id="both-are-outputs",
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) "
            "{ a = RandomNormalLike(x) b = RandomNormalLike(x) y = Add(a, b) }",
            id="random",
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) "
            "{ a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu<alpha = 0.2>(x) y = Add(a, b) }",
            id="other-attributes",
        ),
        pytest.param(
            """g (bool c, float[4] x) => (float[4] y) {
                 y = If (c) <then_branch = t () => (float[4] a) { s = Relu(x) a = Exp(s) },
                             else_branch = e () => (float[4] b) { u = Relu(x) b = Neg(u) }> }""",
            id="in-two-branches",
        ),
        pytest.param(
            """g (float[N,4] x) => (float[N,4] y) <float h = {0.5}, bool t = {1}>
               { a = Dropout(x, h, t) b = Dropout(x, h, t) y = Add(a, b) }""",
            id="dropout-in-training",
        ),
        pytest.param(
            """g (float[N,2] x) => (float[N,2] y) <float[2] v = {0, 2}, float[2] w = {-0.0, 2}>
               { a = Add(x, v) y = Mul(a, w) }""",
            id="zeros-of-other-signs",
        ),
    ],
)
def test_keeps_apart(text: str, declines: Any) -> None:
    declines(MergeCommonSubexpressions(), text)


def test_respects_the_size_limit(declines: Any) -> None:
    declines(
        MergeCommonSubexpressions(max_initializer_bytes=7),
        """g (float[N,2] x) => (float[N,2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}>
           { a = Add(x, v) y = Mul(a, w) }""",
    )
