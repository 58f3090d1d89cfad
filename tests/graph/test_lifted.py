"""Weights of large models are read where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.graph.constants import constant_array
from adapass.graph.digest import digest
from adapass.graph.lifted import lift_weights
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.graph.text import parse

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[N,3] x) => (float[N,2] y)
          <float[3,4] w = {0,1,2,3,4,5,6,7,8,9,10,11}, float[4,2] v = {1,0,0,1,2,0,0,2}, int64[2] s = {-1,4}>
          { h = MatMul(x, w) r = Reshape(h, s) y = Gemm(r, v) }"""
FEED = {"x": np.ones((2, 3), np.float32)}


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapass.graph.lifted.LARGE_BYTES", 1)
    monkeypatch.setattr("adapass.execution.LARGE_MODEL_BYTES", 1)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    """A model whose weights lie in a file."""
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 1)
    numbers = ",".join(map(str, range(300)))
    wide = TEXT.replace("{0,1,2,3,4,5,6,7,8,9,10,11}", f"{{{numbers}}}").replace("[3,4] w", "[3,100] w")
    save_model(parse(wide), tmp_path / "m.onnx")
    return load_model(tmp_path / "m.onnx")


def test_weights_become_inputs_and_shapes_stay() -> None:
    model = parse(TEXT)

    lifted = lift_weights(model)

    assert [value.name for value in lifted.model.graph.inputs] == ["x", "w", "v"]
    assert list(lifted.model.graph.initializers) == ["s"]
    assert {name: array.shape for name, array in lifted.weights.items()} == {"w": (3, 4), "v": (4, 2)}
    assert digest(model) == digest(parse(TEXT))


def test_runs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse(TEXT)
    lifted = Session(model).run(FEED)["y"]
    monkeypatch.setattr("adapass.execution.LARGE_MODEL_BYTES", 10**9)

    assert np.array_equal(lifted, Session(model).run(FEED)["y"])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            TEXT.replace('"" : 20', '"" : 20, "own" : 1').replace("MatMul(x, w)", "own.MatMul(x, w)"),
            id="read-by-a-foreign-operator",
        ),
        pytest.param(TEXT.replace("y = Gemm", "w2 = Shape(w) y = Gemm"), id="read-by-another-operator"),
        pytest.param(TEXT.replace("(float[N,3] x)", "(float[N,3] x, float[3,4] w)"), id="a-default"),
        pytest.param(TEXT.replace("(float[N,2] y)", "(float[N,2] y, float[3,4] w)"), id="returned"),
    ],
)
def test_leaves_alone_what_must_be_stored(text: str) -> None:
    assert "w" not in lift_weights(parse(text)).weights


def test_reading_a_constant_keeps_nothing_in_memory(stored: ir.Model) -> None:
    value = stored.graph.initializers["w"]

    array = constant_array(value)

    assert array is not None
    assert array.reshape(-1)[:3].tolist() == [0, 1, 2]
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None
    assert digest(stored)
    assert tensor.raw is None
