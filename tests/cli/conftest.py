"""Run the command line in this process, with its own cache, and small models to run it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from adapass.cli.main import app

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
tiny (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {%s}>
{ y = MatMul(x, w) }
"""

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call it with the words of a command line; it runs in ``tmp_path``."""
    monkeypatch.setenv("ADAPASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def save(path: Path, weights: str) -> Path:
    path.write_bytes(onnx.parser.parse_model(TEXT % weights).SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny.onnx", "1.0, 2.0, 3.0, 4.0, 5.0, 6.0")


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """The same but for one weight."""
    return save(tmp_path / "other.onnx", "1.0, 2.0, 3.0, 4.0, 5.0, 6.5")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.arange(15, dtype=np.float32).reshape(5, 3), labels=np.array([0, 1, 0, 1, 1]))
    return path
