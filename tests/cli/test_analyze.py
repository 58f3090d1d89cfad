from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import Result

from tests.passes.rows import literal, weight

Invoke = Callable[..., Result]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A product large enough for 8 bits."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    large (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w = {literal(weight(1, 64, 64))}>
    {{ y = MatMul(x, w) }}
    """
    (tmp_path / "large.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return tmp_path / "large.onnx"


@pytest.fixture
def large_rows(tmp_path: Path) -> Path:
    np.savez(tmp_path / "large.npz", x=weight(2, 40, 64))
    return tmp_path / "large.npz"


def test_shows_what_is_in_the_model_and_what_each_family_says(invoke: Invoke, model: Path) -> None:
    result = invoke("analyze", model, "--threads", 1)

    assert result.exit_code == 0
    for expected in ("regions", "1x MatMul", "quantize-8bit", "insert-exits"):
        assert expected in result.stdout
    assert "1/3 clean" in result.stderr


def test_says_it_as_json(invoke: Invoke, model: Path, inputs: Path) -> None:
    result = invoke("analyze", model, "--threads", 1, "--data", inputs, "--json", "-q")

    found = json.loads(result.stdout)
    assert found["regions"]["rows"][0]["heavy operators"] == "1x MatMul"
    assert result.stderr == ""


def test_data_that_does_not_fit_is_named(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    result = invoke("analyze", model, "--data", tmp_path / "missing.npz")

    assert result.exit_code == 2
    assert "missing.npz" in result.stderr


def test_code_runs_only_when_allowed(invoke: Invoke, model: Path) -> None:
    result = invoke("analyze", model, "--data", "os:getcwd")

    assert result.exit_code == 2
    assert "--allow-code" in result.stderr


def test_without_data_the_format_predicts_and_says_so(invoke: Invoke, large: Path, large_rows: Path) -> None:
    without = json.loads(invoke("analyze", large, "--threads", 1, "--json", "-q").stdout)
    measured = json.loads(
        invoke("analyze", large, "--threads", 1, "--data", large_rows, "--json", "-q").stdout
    )

    assert without["quantize-8bit"]["rows"][0]["output distortion alone"].startswith("~0.0")
    assert any("~ is not measured" in note for note in without["quantize-8bit"]["notes"])
    assert measured["quantize-8bit"]["rows"][0]["output distortion alone"].startswith("0.0")
    assert not any("~" in note for note in measured["quantize-8bit"]["notes"])
