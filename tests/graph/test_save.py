"""Saving: the same bytes every time, whole or not at all, large weights beside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from adapass.execution import Session
from adapass.graph.digest import digest
from adapass.graph.load import load_model
from adapass.graph.save import save_model, to_bytes
from adapass.graph.text import clone, parse

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,4] y)
          <float[2,4] w = {0,1,2,3,4,5,6,7}> { h = MatMul(x, w) y = Relu(h) }"""


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = parse(TEXT)

    save_model(model, tmp_path / "a.onnx")
    save_model(clone(load_model(tmp_path / "a.onnx")), tmp_path / "b.onnx")

    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_large_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 16)
    model = parse(TEXT.replace("{0,1,2,3,4,5,6,7}", "{" + ",".join(str(n) for n in range(800)) + "}").replace(
        "float[2,4] w", "float[2,400] w").replace("float[N,4] y", "float[N,400] y"))  # fmt: skip

    save_model(model, tmp_path / "m.onnx")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    again = load_model(tmp_path / "m.onnx")
    assert digest(again) == digest(model)
    feeds = {"x": np.ones((1, 2), np.float32)}
    assert np.array_equal(Session(again).run(feeds)["y"], Session(model).run(feeds)["y"])


def test_a_model_with_external_weights_is_saved_whole_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("adapass.graph.save.EMBEDDED_BYTES", 0)
        save_model(parse(TEXT), tmp_path / "m.onnx")
    (tmp_path / "elsewhere").mkdir()

    save_model(load_model(tmp_path / "m.onnx"), tmp_path / "elsewhere" / "m.onnx")

    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["m.onnx"]
    assert digest(load_model(tmp_path / "elsewhere" / "m.onnx")) == digest(parse(TEXT))


def test_bytes_in_memory_hold_no_intermediate_shapes() -> None:
    assert not onnx.load_from_string(to_bytes(parse(TEXT))).graph.value_info


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(OSError, match="taken"):
        save_model(parse(TEXT), tmp_path / "taken")

    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
