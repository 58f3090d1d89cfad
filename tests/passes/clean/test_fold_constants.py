"""fold-constants: what does not depend on the input is stored."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.facts import FactCache
from adapass.graph.constants import RESTORES
from adapass.graph.text import parse
from adapass.passes.clean.fold_constants import (
    IS_OUTPUT,
    STORED_SMALLER,
    TOO_LARGE,
    UNKNOWN_SIZE,
    FoldConstants,
)


def test_folds_a_chain_into_its_last_value(fires: Any) -> None:
    fires(
        FoldConstants(),
        """g (float[N,2] x) => (float[N,2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>
           { s = Add(a, b) t = Neg(s) y = Mul(x, t) }""",
        "g (float[N,2] x) => (float[N,2] y) <float[2] t = {-4, -6}> { y = Mul(x, t) }",
    )


def test_folds_half_precision_weights(fires: Any) -> None:
    fires(
        FoldConstants(),
        """g (float[N,2] x) => (float[N,2] y) <float16[2,2] h = {15360, 14336, 16384, 17408}>
           { w = Cast<to = 1>(h) y = MatMul(x, w) }""",
        "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 0.5, 2, 4}> { y = MatMul(x, w) }",
    )


def test_settles_known_sizes(fires: Any) -> None:
    fires(
        FoldConstants(),
        """g (float[N,6] x) => (int64[1] y)
           { s = Shape(x) i = Constant<value_ints = [1]>() d = Gather(s, i) y = Neg(d) }""",
        "g (float[N,6] x) => (int64[1] y) <int64[1] d = {6}> { y = Neg(d) }",
    )


def test_folds_inside_branches(fires: Any) -> None:
    fires(
        FoldConstants(),
        """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1, 2}> {
             y = If (c) <then_branch = t () => (float[2] p) { n = Neg(a) p = Add(x, n) },
                         else_branch = e () => (float[2] q) { q = Add(x, a) }> }""",
        """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1, 2}> {
             y = If (c) <then_branch = t () => (float[2] p) <float[2] n = {-1, -2}> { p = Add(x, n) },
                         else_branch = e () => (float[2] q) { q = Add(x, a) }> }""",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("g () => (float[2] y) <float[2] a = {1, 2}> { y = Neg(a) }", IS_OUTPUT, id="an-output"),
        pytest.param(
            """g (float[200,200] x) => (float[200,200] y) <int64[2] s = {200, 200}>
               { w = ConstantOfShape(s) y = Add(x, w) }""",
            TOO_LARGE,
            id="weight-written-as-a-shape",
        ),
        pytest.param(
            """g (int64[2,N] x) => (int64[2,M] y) <float[3] a = {1, 0, 2}>
               { n = NonZero(a) y = Concat<axis = 1>(n, x) }""",
            UNKNOWN_SIZE,
            id="size-depends-on-the-content",
        ),
        pytest.param(
            "g (float[N,2] x) => (float[N,2] y) <float[2] a = {1, 2}> "
            "{ r = RandomNormalLike(a) y = Add(x, r) }",
            None,
            id="random",
        ),
        pytest.param(
            """g (float[N,2] x) => (float[N,2] y) <int8[2,2] q = {1, 2, 3, 4}, float s = {0.5}>
               { w = DequantizeLinear(q, s) y = MatMul(x, w) }""",
            None,
            id="quantized-weight",
        ),
        pytest.param(
            "g (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}> { n = Neg(a) y = Add(x, n) }",
            None,
            id="a-default-is-not-a-constant",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str | None, declines: Any) -> None:
    declines(FoldConstants(), text, reason)


def test_respects_the_growth_limits(declines: Any) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <float16[2,2] h = {15360, 14336, 16384, 17408}>
              { w = Cast<to = 1>(h) y = MatMul(x, w) }"""
    declines(FoldConstants(max_growth=1.0, max_added_bytes=0), text, TOO_LARGE)


def test_leaves_a_weight_that_is_stored_in_fewer_bytes() -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 20]> m (float[4] x) => (float[4] y) '
        "<float16[4] w = {1, 2, 3, 4}> { wide = Cast<to = 1>(w) y = Mul(x, wide) }"
    )
    next(iter(model.graph)).metadata_props[RESTORES] = "y"

    result = FoldConstants().run(model, FactCache(model))

    assert dict(result.rejected) == {STORED_SMALLER: 1}
    assert [node.op_type for node in model.graph] == ["Cast", "Mul"]
