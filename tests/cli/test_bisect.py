from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import Result

from adapass import registry
from adapass.facts import FactCache
from adapass.rewrite import Exactness, Pass, PassResult

Invoke = Callable[..., Result]


@dataclass(frozen=True, kw_only=True)
class DoNothing(Pass):
    """Changes nothing."""

    name: ClassVar[str] = "do-nothing"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        del model, facts, only
        return PassResult(applied=0)


@dataclass(frozen=True, kw_only=True)
class DoubleWeights(Pass):
    """Doubles every weight and calls it exact."""

    name: ClassVar[str] = "double-weights"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        del facts
        sites = [
            node.outputs[0].name or "" for node in model.graph if only is None or node.outputs[0].name in only
        ]
        for value in model.graph.initializers.values():
            if sites and value.const_value is not None:
                value.const_value = ir.tensor(np.asarray(value.const_value.numpy()) * 2, name=value.name)
        return PassResult(applied=len(sites), sites=tuple(sites))


@pytest.fixture(autouse=True)
def _two_passes(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    table = {name: f"{__name__}:{name}" for name in ("do-nothing", "double-weights")}
    kinds = {"do-nothing": DoNothing, "double-weights": DoubleWeights}
    load = registry._load  # pyright: ignore[reportPrivateUsage]

    def find(path: str) -> type[object]:
        return kinds.get(path.rpartition(":")[2]) or load(path)

    monkeypatch.setattr(registry, "PASSES", MappingProxyType(table))
    monkeypatch.setattr(registry, "_load", find)


def test_names_the_guilty_pass_and_writes_a_reproducer(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    result = invoke(
        "bisect", model, "--passes", "do-nothing,double-weights,do-nothing", "-o", tmp_path / "repro"
    )

    assert result.exit_code == 4
    assert "pass 2 of 3: double-weights" in result.stdout
    assert "site: y" in result.stdout
    assert (tmp_path / "repro" / "model.onnx").is_file()
    assert (tmp_path / "repro" / "pipeline.txt").read_text() == "double-weights\n"


def test_says_it_as_json(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    result = invoke("bisect", model, "--passes", "double-weights", "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 4
    assert (found["guilty"], found["number"], found["site"]) == ("double-weights", 1, "y")
    assert (tmp_path / "bisect-tiny" / "guilty.json").is_file()


def test_innocent_passes_end_with_0(invoke: Invoke, model: Path) -> None:
    result = invoke("bisect", model, "--passes", "do-nothing")

    assert result.exit_code == 0
    assert "keep their word" in result.stdout


def test_an_unknown_pass_is_invalid_input(invoke: Invoke, model: Path) -> None:
    result = invoke("bisect", model, "--passes", "do-noting")

    assert result.exit_code == 2
    assert "did you mean do-nothing" in result.stderr
