"""The real engine behind the command, on a model small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from adapass.artifact import Kind, load_artifact, read_artifact

Invoke = Callable[..., Result]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Enough samples to split in three parts."""
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 3)).astype(np.float32)
    np.savez(tmp_path / "many.npz", x=x, labels=random.integers(0, 2, 80))
    return tmp_path / "many.npz"


X = np.arange(15, dtype=np.float32).reshape(5, 3)
EXPECTED = X @ np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_without_data_the_artifact_computes_the_same(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    result = invoke(
        "optimize", model, "--threads", 1, "--mode", "quick", "-o", tmp_path / "out.adapass", "--json"
    )

    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"]
    assert result.exit_code in {0, 3}
    assert found["artifact"] == str(tmp_path / "out.adapass")
    with load_artifact(tmp_path / "out.adapass", threads=1) as loaded:
        np.testing.assert_allclose(np.asarray(loaded.run({"x": X})["y"], np.float32), EXPECTED, rtol=1e-6)
    original = read_artifact(tmp_path / "out.adapass").manifest.kind is Kind.ORIGINAL
    assert original == (result.exit_code == 3)
    assert bool(found["reason"]) == original


def test_the_same_command_twice_gives_the_same_hash(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    hashes: set[str] = set()
    for _ in range(2):
        invoke("optimize", model, "--threads", 1, "--mode", "quick", "-o", tmp_path / "out.adapass")
        hashes.add(read_artifact(tmp_path / "out.adapass").manifest.content_hash)

    assert len(hashes) == 1


def test_a_budget_nobody_can_certify_hands_the_original_back(
    invoke: Invoke, model: Path, inputs: Path, tmp_path: Path
) -> None:
    result = invoke("optimize", model, "--data", inputs, "--max-drop", 0, "--threads", 1, "-o", "out.adapass")

    assert result.exit_code == 3
    assert "adapass: " in result.stderr
    assert (tmp_path / "out.adapass" / "model.onnx").read_bytes() == model.read_bytes()


def test_the_model_is_not_overwritten_by_its_artifact(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "busy.adapass").mkdir()
    (tmp_path / "busy.adapass" / "thesis.txt").write_text("years of work")

    result = invoke("optimize", model, "-o", tmp_path / "busy.adapass")

    assert result.exit_code == 2
    assert "not an artifact" in result.stderr
    assert (tmp_path / "busy.adapass" / "thesis.txt").is_file()


def test_a_dry_run_writes_nothing(invoke: Invoke, model: Path, inputs: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = invoke("optimize", model, "--data", inputs, "--allow-uncertified", "--threads", 1, "--dry-run")

    assert result.exit_code in {0, 3}
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before
