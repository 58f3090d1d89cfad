"""The text form prints and parses back exactly."""

from __future__ import annotations

import pytest

from adapass.errors import ModelError
from adapass.graph.digest import digest
from adapass.graph.text import clone, parse, to_text

TEXTS = (
    """<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y)
       <float[2] w = {0.1, 3.4028235e38}>
       { low = Constant<value_float = 1e-45>() h = Mul(x, w) y = Clip(h, , low) }""",
    """<ir_version: 10, opset_import: ["" : 20, "f" : 1]> g (bool c, float[2] x) => (float[2] y) {
         y = If (c) <then_branch = t () => (float[2] a) { a = f.twice(x) },
                     else_branch = e () => (float[2] b) <float[2] w = {1, 2}> { b = Add(x, w) }> }
       <domain: "f", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }""",
)


@pytest.mark.parametrize("text", TEXTS, ids=["numbers-and-unset-inputs", "branches-and-functions"])
def test_round_trips(text: str) -> None:
    model = parse(text)

    again = parse(to_text(model))

    assert digest(again) == digest(model)
    assert to_text(again) == to_text(model)


def test_leaves_out_intermediate_shapes() -> None:
    text = to_text(parse(TEXTS[1].replace("f.twice(x)", "Neg(x)")))

    assert "float[2] a" in text
    assert to_text(clone(parse(text))) == text


def test_says_where_a_text_does_not_parse() -> None:
    with pytest.raises(ModelError, match=r"not ONNX text: .*line: 1"):
        parse("g (float[2] x => (float[2] y) { y = Relu(x) }")


def test_a_clone_is_independent() -> None:
    model = parse(TEXTS[1])
    before = digest(model)

    copy = clone(model)
    copy.graph.inputs[0].name = "other"

    assert digest(model) == before
    assert digest(copy) != before
