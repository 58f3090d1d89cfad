"""The default of a knob is replaced in an ONNX file, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from adapass.artifact.defaults import set_defaults
from adapass.errors import ArtifactError


class TestSetDefaults:
    TEXT = """
    <ir_version: 10, opset_import: ["" : 18]>
    g (float[N, 2] x, float[2] t) => (float[N, 2] y)
    <float[2] t = {1.0, 2.0}, float[2] w = {3.0, 4.0}>
    { z = Add(x, t) y = Mul(z, w) }
    """

    def save(self, path: Path) -> Path:
        path.write_bytes(onnx.parser.parse_model(self.TEXT).SerializeToString())
        return path

    def test_replaces_the_default_of_a_knob_and_nothing_else(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "m.onnx")
        before = onnx.ModelProto.FromString(path.read_bytes())

        assert set_defaults(path, {"t": np.array([7, np.inf], np.float32)}) == 1

        after = onnx.ModelProto.FromString(path.read_bytes())
        new, weight = (onnx.numpy_helper.to_array(t) for t in after.graph.initializer)
        np.testing.assert_array_equal(new, [7, np.inf])
        np.testing.assert_array_equal(weight, [3, 4])
        del after.graph.initializer[:], before.graph.initializer[:]
        assert after == before

    def test_a_file_without_the_knob_keeps_its_bytes(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "m.onnx")
        before = path.read_bytes()

        assert set_defaults(path, {"w": np.zeros(2, np.float32), "u": np.zeros(2, np.float32)}) == 0
        assert path.read_bytes() == before

    def test_refuses_a_knob_of_another_size(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "m.onnx")

        with pytest.raises(ArtifactError, match=r"knob 't' is not float32 of shape \[3\]"):
            set_defaults(path, {"t": np.zeros(3, np.float32)})

    def test_refuses_what_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"not a model")

        with pytest.raises(ArtifactError, match="not a readable ONNX file"):
            set_defaults(tmp_path / "m.onnx", {"t": np.zeros(3, np.float32)})
