from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result as CliResult

from adapass.cli import demo
from adapass.driver import optimize as driver
from adapass.driver.report import Report, Result, Row

Invoke = Callable[..., CliResult]


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package" / "assets"
    folder.mkdir(parents=True)

    def found(package: str) -> Path:
        assert package == "adapass"
        return folder.parent

    monkeypatch.setattr(demo, "files", found)
    return folder


def test_optimizes_what_ships_and_shows_the_table(
    invoke: Invoke, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def fake(model: Path, **options: Any) -> Result:
        seen.update(options, model=model)
        return Result(Path("demo.adapass"), Report((Row("latency", "2 ms", "1 ms", "0.50x"),)), {})

    monkeypatch.setattr(driver, "optimize", fake)
    for name in demo.ASSETS:
        (assets / name).write_bytes(b"")

    result = invoke("demo")

    assert result.exit_code == 0
    assert seen["model"] == assets / "demo.onnx"
    assert seen["data"] == assets / "demo_fit.npz"
    assert seen["eval_data"] == assets / "demo_eval.npz"
    assert "0.50x" in result.stdout
    assert "this runs: adapass optimize" in result.stderr


def test_says_when_the_model_did_not_ship(invoke: Invoke, assets: Path) -> None:
    assert not any(assets.iterdir())

    result = invoke("demo")

    assert result.exit_code == 2
    assert "install adapass from a wheel" in result.stderr
