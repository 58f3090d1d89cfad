"""simplify-reshapes: Reshape targets as constants, where that is proved."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.simplify_reshapes import SETTLED, SimplifyReshapes

HEADS = "g (int64[B,S] ids, float[B,S,8] x) => (float[B,S,2,4] y) <int64[1] h = {2}, int64[1] m = {-1}>"


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(
            "b = Shape<start = 0, end = 1>(ids) s = Shape<start = 1, end = 2>(ids) t = Concat<axis "
            "= 0>(b, s, h, m)",
            id="shape-with-bounds",
        ),
        pytest.param(
            """a = Shape(x) zero = Constant<value_int = 0>() one = Constant<value_ints = [1]>()
               axes = Constant<value_ints = [0]>() g = Gather(a, zero) b = Unsqueeze(g, axes) s =
                 Gather(a, one)
               t = Concat<axis = 0>(b, s, h, m)""",
            id="gather-and-unsqueeze",
        ),
        pytest.param(
            """a = Shape(x) zero = Constant<value_ints = [0]>() two = Constant<value_ints = [2]>()
               c = Cast<to = 6>(a) d = Cast<to = 7>(c) bs = Slice(d, zero, two, zero) t = Concat<axis =
                 0>(bs, h, m)""",
            id="slice-and-cast",
        ),
    ],
)
def test_follows_chains_of_shapes(chain: str, fires: Any) -> None:
    result = fires(
        SimplifyReshapes(),
        f"{HEADS} {{ {chain} r = Relu(x) y = Reshape(r, t) }}",
        """g (int64[B,S] ids, float[B,S,8] x) => (float[B,S,2,4] y) <int64[4] y_target = {0, 0, 2, 4}>
           { r = Relu(x) y = Reshape(r, y_target) }""",
    )

    assert result.sites == ("y",)


def test_an_open_dimension_becomes_a_copy(fires: Any) -> None:
    fires(
        SimplifyReshapes(),
        "g (float[B,6,8] x) => (float[B,6,2,4] y) <int64[4] t = {-1, 6, 2, 4}> { y = Reshape(x, t) }",
        "g (float[B,6,8] x) => (float[B,6,2,4] y) <int64[4] y_target = {0, 6, 2, 4}> "
        "{ y = Reshape(x, y_target) }",
    )


def test_sees_through_a_position_table(fires: Any) -> None:
    """Slice of a table up to the length, added to the tokens: the sum still has the length of the tokens."""
    fires(
        SimplifyReshapes(),
        """g (float[B,S,8] x) => (float[B,S,2,4] y) <float[1,16,8] table, int64[1] h = {2}, int64[1] m = {-1},
             int64[1] zero = {0}, int64[1] one = {1}>
           { b = Shape<start = 0, end = 1>(x) s = Shape<start = 1, end = 2>(x) p = Slice(table, zero, s, one)
             z = Add(x, p) t = Concat<axis = 0>(b, s, h, m) y = Reshape(z, t) }""".replace(
            "table,", "table = {" + ",".join(["0.5"] * 128) + "},", 1
        ),
        """g (float[B,S,8] x) => (float[B,S,2,4] y) <float[1,16,8] table,
             int64[1] zero = {0}, int64[1] one = {1}, int64[4] y_target = {0, 0, 2, 4}>
           { s = Shape<start = 1, end = 2>(x) p = Slice(table, zero, s, one)
             z = Add(x, p) y = Reshape(z, y_target) }""".replace(
            "table,", "table = {" + ",".join(["0.5"] * 128) + "},", 1
        ),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            "g (float[B,8] x, int64[2] t) => (float[C,D] y) { y = Reshape(x, t) }",
            "the target is computed from values, not from shapes",
            id="target-is-an-input",
        ),
        pytest.param(
            """g (float[B,S,8] x, float[C,D] z) => (float[C,D,E] y) <int64[1] m = {-1}>
               { t2 = Shape(z) t = Concat<axis = 0>(t2, m) y = Reshape(x, t) }""",
            "two dimensions of the target stay open",
            id="sizes-of-another-tensor",
        ),
        pytest.param(
            """<ir_version: 10, opset_import: ["" : 20, "custom" : 1]>
               g (float[B,8] x) => (float[C] y) <int64[1] t = {-1}> { h = custom.op(x) y = Reshape(h, t) }""",
            "the rank of the input is unknown",
            id="unknown-rank",
        ),
        pytest.param(
            "g (float[0,8] x) => (float[4,0] y) <int64[2] t = {4, 0}> { y = Reshape<allowzero = 1>(x, t) }",
            "the target holds a real zero",
            id="real-zero",
        ),
        pytest.param(
            "g (float[B,8] x) => (float[B,2,4] y) <int64[3] t = {0, 2, 4}> { y = Reshape(x, t) }",
            SETTLED,
            id="settled",
        ),
        pytest.param(
            "g (float[B,8] x) => (float[C] y) <int64[1] t = {-1}> { y = Reshape(x, t) }",
            SETTLED,
            id="flattened",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str, declines: Any) -> None:
    declines(SimplifyReshapes(), text, reason)


def test_does_not_mistake_a_swapped_dimension_for_a_copy(fires: Any) -> None:
    fires(
        SimplifyReshapes(),
        """g (float[B,S] x) => (float[S,C] y)
           { s = Shape<start = 1, end = 2>(x) m = Constant<value_ints = [4]>()
             t = Concat<axis = 0>(s, m) z = Reshape(x, t) y = Neg(z) }""",
        """g (float[B,S] x) => (float[S,C] y) <int64[2] z_target = {-1, 4}>
           { z = Reshape(x, z_target) y = Neg(z) }""",
        runs=False,
    )
