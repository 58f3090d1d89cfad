"""extract: a part of a model that stands alone and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import UsageError
from adapass.execution import Session
from adapass.graph.check import check_structure
from adapass.graph.extract import extract
from adapass.graph.text import parse, to_text

TEXT = """<ir_version: 10, opset_import: ["" : 20, "f" : 1]> g (float[N,2] x, bool c) => (float[N,2] y)
  <float[2] w = {1, 2}, float[2] v = {3, 4}> { a = Add(x, w) b = f.twice(a) d = Mul(b, v)
  y = If (c) <then_branch = t () => (float[N,2] p) { p = Neg(d) }, else_branch = e () => (float[N,2] q) {
      q = Add(d, a) }> }
  <domain: "f", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }"""


def test_the_part_computes_what_the_whole_computes() -> None:
    model = parse(TEXT)
    feeds = {"x": np.ones((3, 2), np.float32), "c": np.array(False)}
    whole = Session(model, outputs=["a", "y"]).run(feeds)

    part = extract(model, ["a", "c"], ["y"])

    check_structure(part)
    assert [value.name for value in part.graph.inputs] == ["a", "c"]
    assert str(part.graph.inputs[0].shape) == "[N,2]"
    assert list(part.graph.initializers) == ["v"]
    assert np.array_equal(Session(part).run({"a": whole["a"], "c": feeds["c"]})["y"], whole["y"])


def test_is_deterministic_and_leaves_the_model_alone() -> None:
    model = parse(TEXT)
    before = to_text(model)

    assert to_text(extract(model, ["x"], ["d"])) == to_text(extract(model, ["x"], ["d"]))
    assert to_text(model) == before


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        pytest.param(["x"], ["nothing"], "the graph has no value 'nothing'", id="unknown-output"),
        pytest.param(["b"], ["y"], "required but not provided: ", id="not-enough-inputs"),
    ],
)
def test_says_why_not(inputs: list[str], outputs: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        extract(parse(TEXT), inputs, outputs)
