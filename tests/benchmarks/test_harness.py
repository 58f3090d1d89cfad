"""The benchmark harness on a small model: files, circumstances, errors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from adapass.graph.save import save_model
from adapass.graph.text import parse

RELU = """
<ir_version: 8, opset_import: ["" : 18]>
relu (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }
"""


def load_harness() -> ModuleType:
    # By its path: the folder of benchmarks is not part of the installed package.
    path = Path(__file__).parents[2] / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HARNESS = load_harness()


@pytest.fixture
def case(tmp_path: Path) -> list[str]:
    for name in ("a.onnx", "b.onnx"):
        save_model(parse(RELU), tmp_path / name)
    np.savez(tmp_path / "data.npz", x=np.ones((6, 2), np.float32))
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    options = {
        "--data": tmp_path / "data.npz",
        "--rounds": 2,
        "--batches": 2,
        "--folder": tmp_path / "results",
    }
    return ["relu", *paths, *(str(part) for option in options.items() for part in option)]


def test_writes_json_and_a_table_with_the_circumstances(
    case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert HARNESS.main(case) == 0

    found = json.loads((tmp_path / "results" / "relu.json").read_text(encoding="utf-8"))
    text = (tmp_path / "results" / "relu.txt").read_text(encoding="utf-8")
    assert [(row["model"], row["threads"], row["batch"]) for row in found["rows"]] == [
        ("a.onnx", 2, 2),
        ("b.onnx", 2, 2),
    ]
    assert found["rows"][0]["timing"]["calls"] == 2 * 3
    assert found["machine"]["key"] in text
    assert f"onnxruntime {found['machine']['versions']['onnxruntime']}" in text
    assert capsys.readouterr().out == text


def test_an_error_is_a_message_and_an_exit_code(
    case: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.onnx").unlink()

    assert HARNESS.main(case) == 2
    assert "neither an ONNX file nor an artifact folder" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_shared_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAPASS_SHARED", str(tmp_path))
    assert HARNESS.shared_folder() == tmp_path

    monkeypatch.delenv("ADAPASS_SHARED")
    assert HARNESS.shared_folder().name == "shared"
