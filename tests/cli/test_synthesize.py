from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import Result

from adapass.data import load_data
from adapass.graph.load import load_model
from tests.passes.rows import literal, weight

pytest.importorskip("torch", reason="synthetic samples need torch")

Invoke = Callable[..., Result]


@pytest.fixture
def normalised(tmp_path: Path) -> Path:
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[N, 3, 8, 8] image) => (float[N, 4] y)
    <float[16, 3, 3, 3] w = {literal(weight(1, 16, 3, 3, 3))}, float[16] s = {literal(weight(2, 16))},
     float[16] b = {literal(weight(3, 16))}, float[16] m = {literal(weight(4, 16))},
     float[16] v = {literal(weight(5, 16) ** 2 + 1)}, float[16, 4] head = {literal(weight(6, 16, 4))}>
    {{
        c = Conv(image, w)
        n = BatchNormalization(c, s, b, m, v)
        r = Relu(n)
        g = GlobalAveragePool(r)
        f = Flatten(g)
        y = MatMul(f, head)
    }}
    """
    path = tmp_path / "normalised.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.fixture
def made(invoke: Invoke, normalised: Path, tmp_path: Path) -> Path:
    result = invoke("synthesize", normalised, "-o", "made.npz", "--samples", 12, "--steps", 20, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["samples"] == 12
    assert found["batch_normalisations"] == 1
    assert found["distance"] < found["distance_of_noise"]
    return tmp_path / "made.npz"


def test_the_file_is_marked_wherever_it_is_read(invoke: Invoke, normalised: Path, made: Path) -> None:
    data = load_data(made, load_model(normalised))
    shown = invoke("analyze", normalised, "--sensitivity", "--data", made, "--json")

    assert data.synthetic
    assert data.source == json.loads(shown.stdout)["inputs"] == "made.npz (synthetic samples: no data)"


def test_nothing_is_certified_on_it(invoke: Invoke, normalised: Path, made: Path) -> None:
    alone = invoke("optimize", normalised, "--data", made, "-o", "out.adapass", "-q")

    assert alone.exit_code == 2
    assert "there is no certificate on samples that were made from the model" in alone.stderr


def test_it_is_no_evaluation_data_either(
    invoke: Invoke, normalised: Path, made: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "real.npz", image=weight(9, 20, 3, 8, 8))

    result = invoke("optimize", normalised, "--data", "real.npz", "--eval", made, "-o", "out.adapass", "-q")

    assert result.exit_code == 2
    assert "there is no certificate on them" in result.stderr


def test_real_data_is_not_marked(normalised: Path) -> None:
    assert not load_data({"image": weight(9, 20, 3, 8, 8)}, load_model(normalised)).synthetic


def test_a_model_without_statistics_is_refused(invoke: Invoke, model: Path) -> None:
    result = invoke("synthesize", model, "-o", "made.npz")

    assert result.exit_code == 2
    assert "stores no statistics" in result.stderr


def test_the_name_of_the_file_is_checked(invoke: Invoke, normalised: Path) -> None:
    result = invoke("synthesize", normalised, "-o", "made.bin")

    assert result.exit_code == 2
    assert "ends in .npz" in result.stderr
