from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Invoke = Callable[..., Result]


def test_equal_models_end_with_0(invoke: Invoke, model: Path) -> None:
    result = invoke("verify", model, model)

    assert result.exit_code == 0
    assert "equal" in result.stdout


def test_different_models_end_with_4_and_name_the_output(
    invoke: Invoke, model: Path, other_model: Path
) -> None:
    result = invoke("verify", model, other_model)

    assert result.exit_code == 4
    assert "differs" in result.stdout
    assert "in y" in result.stderr


def test_a_tolerance_may_be_given(invoke: Invoke, model: Path, other_model: Path) -> None:
    assert invoke("verify", model, other_model, "--tolerance", "1.0").exit_code == 0
    assert invoke("verify", model, other_model, "--tolerance", "0").exit_code == 4


def test_real_inputs_and_json(invoke: Invoke, model: Path, other_model: Path, inputs: Path) -> None:
    result = invoke("verify", model, other_model, "--data", inputs, "--samples", 3, "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 4
    assert found["cases"] == 3
    assert found["equal"] is False
    assert found["outputs"][0]["name"] == "y"
