"""How the command speaks; what optimizing does is tested with the driver."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result as CliResult

from adapass.driver import optimize as driver
from adapass.driver.report import Report, Result, Row
from adapass.errors import ExitCode, VerificationError

Invoke = Callable[..., CliResult]

REAL = driver.optimize

FOUND = Result(
    artifact=Path("tiny.adapass"),
    report=Report(
        rows=(Row("latency", "2.0 ms", "1.0 ms", "0.50x [measured]"),),
        messages=("quality drop at most 1.0 point",),
        figures={"latency_ratio": 0.5, "worst": float("inf")},
    ),
    recipe={"schema": 1, "families": []},
    pareto=({"seconds": 1e-3, "damage": 0.001, "chosen": True}, {"seconds": 2e-3, "damage": 0.0}),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine was called with; it answers with what is under 'answer'."""
    seen: dict[str, Any] = {"answer": FOUND}

    def fake(model: object, **options: Any) -> Result:
        seen.update(options, model=model)
        options["progress"].phase("search", 1, 2)
        if isinstance(seen["answer"], BaseException):
            raise seen["answer"]
        answer: Result = seen["answer"]
        return answer

    monkeypatch.setattr(driver, "optimize", fake)
    return seen


def test_hands_every_option_on(invoke: Invoke, asked: dict[str, Any]) -> None:
    words = (
        "optimize m.onnx -o out --target cuda --backend onnxruntime --data a.npz --eval b.npz --max-drop 0.02"
        " --confidence 0.9 --metric accuracy --latency-target 3ms --mode extensive --time-limit 10m --batch 8"
        " --threads 2 --passes quantize-8bit --skip-passes a,b --skip-passes c --recipe r.yaml --seed 7"
        " --resume --dry-run --allow-uncertified --allow-code --max-size 20MB --workers 3"
        " --scheduler tcp://h:1 --deterministic --latency-table t.json --no-advise --heal 5m"
    )

    result = invoke(*words.split())

    assert result.exit_code == 0
    del asked["progress"], asked["answer"]
    assert asked == {
        "model": Path("m.onnx"),
        "output": Path("out"),
        "target": "cuda",
        "backend": "onnxruntime",
        "data": "a.npz",
        "eval_data": "b.npz",
        "max_drop": 0.02,
        "confidence": 0.9,
        "metric": "accuracy",
        "latency_target_seconds": 3e-3,
        "mode": "extensive",
        "time_limit_seconds": 600.0,
        "threads": 2,
        "batch": 8,
        "passes": "quantize-8bit",
        "skip_passes": ("a", "b", "c"),
        "recipe": Path("r.yaml"),
        "seed": 7,
        "resume": True,
        "dry_run": True,
        "allow_uncertified": True,
        "allow_code": True,
        "max_size_bytes": 20_000_000,
        "workers": 3,
        "scheduler": "tcp://h:1",
        "deterministic": True,
        "latency_table": Path("t.json"),
        "heal_seconds": 300.0,
        "advise": False,
    }


def test_defaults_are_those_of_the_python_function(invoke: Invoke, asked: dict[str, Any]) -> None:
    invoke("optimize", "m.onnx")

    for name, parameter in inspect.signature(REAL).parameters.items():
        if name not in {"model", "progress"}:
            assert asked[name] == parameter.default, name


def test_the_table_goes_to_stdout_and_progress_to_stderr(invoke: Invoke, asked: dict[str, Any]) -> None:
    result = invoke("optimize", "m.onnx")

    assert result.exit_code == 0
    assert "0.50x [measured]" in result.stdout
    assert "quality drop at most 1.0 point" in result.stdout
    assert "artifact: tiny.adapass" in result.stdout
    assert "families" not in result.stdout
    assert "1/2 search" not in result.stdout
    assert "1/2 search" in result.stderr


def test_json_is_all_of_stdout(invoke: Invoke, asked: dict[str, Any]) -> None:
    result = invoke("optimize", "m.onnx", "--json", "-q")

    found = json.loads(result.stdout)
    assert found["artifact"] == "tiny.adapass"
    assert found["report"]["latency_ratio"] == 0.5
    assert found["report"]["worst"] == "inf"
    assert result.stderr == ""


def test_explain_shows_the_plans_and_the_recipe(invoke: Invoke, asked: dict[str, Any]) -> None:
    result = invoke("optimize", "m.onnx", "--explain")

    assert "plans tried" in result.stdout
    assert "0.001" in result.stdout
    assert "families: []" in result.stdout


def test_the_original_comes_back_with_code_3_and_the_reason_on_stderr(
    invoke: Invoke, asked: dict[str, Any]
) -> None:
    asked["answer"] = Result(
        artifact=Path("tiny.adapass"),
        report=Report(),
        recipe={},
        exit_code=ExitCode.BUDGET_NOT_REACHABLE,
        reason="nothing was faster",
    )

    result = invoke("optimize", "m.onnx")

    assert result.exit_code == 3
    assert "adapass: nothing was faster" in result.stderr
    assert "nothing was faster" not in result.stdout


def test_an_interrupted_run_says_how_to_go_on(invoke: Invoke, asked: dict[str, Any]) -> None:
    asked["answer"] = KeyboardInterrupt()

    result = invoke("optimize", "m.onnx")

    assert result.exit_code == 130
    assert "--resume" in result.stderr


def test_a_broken_pass_ends_with_4(invoke: Invoke, asked: dict[str, Any]) -> None:
    asked["answer"] = VerificationError("pass 'x' broke it")

    result = invoke("optimize", "m.onnx")

    assert result.exit_code == 4
    assert "pass 'x' broke it" in result.stderr
