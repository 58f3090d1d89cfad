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
PLAIN = ("--quantizer", "quantize-8bit{migrate=never}")


@pytest.fixture
def collapsing(tmp_path: Path) -> Path:
    """Two products; what the second reads has one channel that is 100 times as large as the others."""
    first, second = weight(1, 64, 64), weight(2, 64, 64)
    first[:, 7] *= 100.0
    second[7] /= 100.0
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[N, 64] x) => (float[N, 64] y)
    <float[64, 64] w1 = {literal(first)}, float[64, 64] w2 = {literal(second)}>
    {{
        hidden = MatMul(x, w1)
        y = MatMul(hidden, w2)
    }}
    """
    path = tmp_path / "collapsing.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, x=weight(3, 40, 64))
    return path


def test_names_the_layer_the_reason_and_what_to_do(invoke: Invoke, collapsing: Path, rows: Path) -> None:
    result = invoke("analyze", collapsing, "--data", rows, "--sensitivity", *PLAIN)

    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines if "MatMul" in line] == ["y", "hidden"]
    assert "input (of 'hidden'): channel 7 reaches" in result.stdout
    assert "skip-sites" in result.stdout
    assert "rows.npz" in result.stdout


def test_says_it_as_json(invoke: Invoke, collapsing: Path, rows: Path) -> None:
    result = invoke("analyze", collapsing, "--data", rows, "--sensitivity", "--json", *PLAIN)

    found = json.loads(result.stdout)
    assert found["inputs"] == "rows.npz"
    assert [layer["layer"] for layer in found["layers"]] == ["y", "hidden"]
    assert found["layers"][0]["distortion"] > found["layers"][1]["distortion"] > 0.0
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1.0)


def test_without_data_says_that_inputs_are_generated(invoke: Invoke, collapsing: Path) -> None:
    result = invoke("analyze", collapsing, "--sensitivity", "--json", *PLAIN)

    found = json.loads(result.stdout)
    assert found["inputs"].startswith("generated inputs")
    assert found["layers"][0]["layer"] == "y"


def test_another_quantizer_gives_another_answer(invoke: Invoke, collapsing: Path, rows: Path) -> None:
    quantizer = "quantize-8bit{per-channel=false migrate=never}"

    result = invoke(
        "analyze", collapsing, "--data", rows, "--sensitivity", "--quantizer", quantizer, "--json"
    )

    hidden = next(x for x in json.loads(result.stdout)["layers"] if x["layer"] == "hidden")
    assert hidden["reasons"][0].startswith("weight: channel 7 reaches")


def test_compares_with_a_quantized_model(invoke: Invoke, collapsing: Path, rows: Path) -> None:
    model = onnx.ModelProto.FromString(collapsing.read_bytes())
    broken = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    broken[:, :32] = 0.0
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(broken, "w1"))
    other = collapsing.with_name("other.onnx")
    other.write_bytes(model.SerializeToString())

    table = invoke("analyze", collapsing, "--data", rows, "--compare", other)
    document = json.loads(invoke("analyze", collapsing, "--data", rows, "--compare", other, "--json").stdout)

    assert "the first jump is at 'hidden' (MatMul)" in table.stdout
    assert document["first_jump"] == "hidden"
    assert [value["value"] for value in document["values"]] == ["hidden", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sensitivity", "--quantizer", "fuse-gelu"), "expected quantize-8bit"),
        (("--sensitivity", "--compare", "x.onnx"), "give one of them"),
        (("--compare", "missing.onnx"), "missing"),
        (("--sensitivity", "--data", "missing.npz"), "missing.npz"),
    ],
)
def test_what_is_wrong_is_named(
    invoke: Invoke, collapsing: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = invoke("analyze", collapsing, *arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_model_without_layers_to_quantize_is_refused(invoke: Invoke, model: Path) -> None:
    result = invoke("analyze", model, "--sensitivity")

    assert result.exit_code == 2
    assert "too small to pay" in result.stderr
