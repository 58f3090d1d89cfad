from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Invoke = Callable[..., Result]


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
