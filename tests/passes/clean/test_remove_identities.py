"""remove-identities: readers of a no-op read its input."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.remove_identities import RemoveIdentities

NOTHING = "the operator does something"
NAMES = "it gives an output of the graph its name"


def _around(line: str, constants: str = "") -> str:
    stored = f"<{constants}>" if constants else ""
    return f"g (float[N,4] x) => (float[N,4] y) {stored} {{ r = Relu(x) {line} y = Exp(i) }}"


@pytest.mark.parametrize(
    ("line", "constants"),
    [
        pytest.param("i = Identity(r)", "", id="identity"),
        pytest.param("i = Cast<to = 1>(r)", "", id="cast-to-the-same-type"),
        pytest.param("i = CastLike(r, x)", "", id="cast-like-the-same-type"),
        pytest.param("i = Transpose<perm = [0, 1]>(r)", "", id="transpose-without-movement"),
        pytest.param("i = Reshape(r, s)", "int64[2] s = {0, 4}", id="reshape-to-copies"),
        pytest.param("i = Reshape(r, s)", "int64[2] s = {-1, 4}", id="reshape-with-one-open"),
        pytest.param("i = Expand(r, s)", "int64[2] s = {1, 4}", id="expand-to-the-same"),
        pytest.param("i = Dropout(r)", "", id="dropout-at-inference"),
        pytest.param(
            "i = Slice(r, a, b, c)",
            "int64[1] a = {0}, int64[1] b = {9223372036854775807}, int64[1] c = {0}",
            id="slice-to-the-end",
        ),
        pytest.param(
            "i = Slice(r, a, b, c)", "int64[1] a = {0}, int64[1] b = {4}, int64[1] c = {1}", id="slice-of-all"
        ),
        pytest.param("i = Pad(r, p)", "int64[4] p = {0, 0, 0, 0}", id="pad-by-nothing"),
        pytest.param("i = Concat<axis = 0>(r)", "", id="concat-of-one"),
        pytest.param("i = Sum(r)", "", id="sum-of-one"),
        pytest.param("i = Flatten(r)", "", id="flatten-of-a-matrix"),
        pytest.param("i = Mul(r, o)", "float[4] o = {1, 1, 1, 1}", id="times-one"),
        pytest.param("i = Mul(o, r)", "float o = {1}", id="one-times"),
        pytest.param("i = Div(r, o)", "float[1] o = {1}", id="divided-by-one"),
        pytest.param("i = Sub(r, o)", "float o = {0}", id="minus-zero"),
    ],
)
def test_removes(line: str, constants: str, fires: Any) -> None:
    fires(
        RemoveIdentities(),
        _around(line, constants),
        "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Exp(r) }",
    )


@pytest.mark.parametrize(
    ("line", "constants"),
    [
        pytest.param("c = Cast<to = 10>(r) i = Cast<to = 1>(c)", "", id="cast-to-half-and-back"),
        pytest.param("t = Transpose(r) i = Transpose<perm = [1, 0]>(t)", "", id="transpose"),
        pytest.param("i = Add(r, o)", "float o = {0}", id="plus-zero-changes-the-sign-of-zero"),
        pytest.param("i = Mul(r, o)", "float[1,4] o = {1, 1, 1, 2}", id="not-all-ones"),
        pytest.param("i = Div(o, r)", "float o = {1}", id="reciprocal"),
        pytest.param("i = Sub(o, r)", "float o = {0}", id="negation"),
        pytest.param(
            "i = Slice(r, a, b, c, d)",
            "int64[1] a = {0}, int64[1] b = {4}, int64[1] c = {1}, int64[1] d = {2}",
            id="slice-with-a-step",
        ),
        pytest.param("i = Dropout(r, h, t)", "float h = {0.5}, bool t = {1}", id="dropout-in-training"),
    ],
)
def test_leaves_alone(line: str, constants: str, declines: Any) -> None:
    declines(RemoveIdentities(), _around(line, constants), NOTHING)


def test_leaves_a_reshape_of_other_rank_alone(declines: Any) -> None:
    text = """g (float[N,4] x) => (float[N,4,1] y) <int64[3] s = {0, 4, 1}>
              { r = Relu(x) i = Reshape(r, s) y = Exp(i) }"""
    declines(RemoveIdentities(), text, NOTHING)


def test_leaves_a_broadening_factor_alone(declines: Any) -> None:
    text = """g (float[1,4] x) => (float[3,4] y) <float[3,1] o = {1, 1, 1}>
              { r = Relu(x) i = Mul(r, o) y = Exp(i) }"""
    declines(RemoveIdentities(), text, NOTHING)


def test_the_producer_takes_the_name_of_an_output(fires: Any) -> None:
    fires(
        RemoveIdentities(),
        "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Identity(r) }",
        "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }", id="of-an-input"),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { z = Relu(x) y = Identity(z) }",
            id="of-another-output",
        ),
        pytest.param("g () => (float[1] y) <float[1] c = {1}> { y = Identity(c) }", id="of-a-constant"),
        pytest.param(
            """g (bool c, float[4] x) => (float[4] y) { r = Relu(x)
                 y = If (c) <then_branch = t () => (float[4] a) { a = Identity(r) },
                             else_branch = e () => (float[4] b) { b = Neg(r) }> }""",
            id="of-an-outer-value",
        ),
    ],
)
def test_keeps_what_names_an_output(text: str, declines: Any) -> None:
    declines(RemoveIdentities(), text, NAMES)


def test_keeps_a_dropout_whose_mask_is_read(declines: Any) -> None:
    declines(
        RemoveIdentities(),
        "g (float[N,4] x) => (float[N,4] y, bool[N,4] m) { d, m = Dropout(x) y = Exp(d) }",
        "a second output is read",
    )
