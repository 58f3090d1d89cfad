"""The reference session: outputs by name, intermediate values, errors in words."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import UsageError, VerificationError
from adapass.execution import Session
from adapass.graph.digest import digest
from adapass.graph.text import parse

TEXT = """<ir_version: 10, opset_import: ["" : 20, "f" : 1]> g (float[N,2] x) => (float[N,2] y)
  <float[2] w = {1, 2}> { a = Add(x, w) y = f.twice(a) }
  <domain: "f", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }"""
FEED = {"x": np.array([[1, 1]], np.float32)}


def test_runs_models_with_functions() -> None:
    assert Session(parse(TEXT)).run(FEED)["y"].tolist() == [[4, 6]]


def test_shows_intermediate_values_and_leaves_the_model_alone() -> None:
    model = parse(TEXT)
    before = digest(model)

    outputs = Session(model, outputs=["a", "y"]).run(FEED)

    assert {name: array.tolist() for name, array in outputs.items()} == {"a": [[2, 3]], "y": [[4, 6]]}
    assert digest(model) == before


def test_runs_models_too_large_for_a_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapass.execution.EMBEDDED_BYTES", 0)
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 0)

    assert Session(parse(TEXT)).run(FEED)["y"].tolist() == [[4, 6]]


def test_says_that_a_value_is_unknown() -> None:
    with pytest.raises(UsageError, match="no value 'nothing' to return"):
        Session(parse(TEXT), outputs=["nothing"])


def test_says_what_did_not_run() -> None:
    with pytest.raises(VerificationError, match=r"cannot run on x\[1, 3\]"):
        Session(parse(TEXT)).run({"x": np.ones((1, 3), np.float32)})


def test_says_that_the_runtime_refuses_the_model() -> None:
    model = parse(TEXT)
    model.graph[0].op_type = "NoSuchOperator"

    with pytest.raises(VerificationError, match=r"ONNX Runtime cannot load the model: .*NoSuchOperator"):
        Session(model)
