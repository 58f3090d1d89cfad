from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from adapass.registry import pass_class, pass_names
from adapass.target import list_targets

Invoke = Callable[..., Result]


def test_lists_every_pass(invoke: Invoke) -> None:
    result = invoke("passes", "list")

    assert result.exit_code == 0
    for name in pass_names():
        assert name in result.stdout


@pytest.mark.parametrize("name", pass_names())
def test_shows_a_pass_with_every_option_explained(invoke: Invoke, name: str) -> None:
    result = invoke("passes", "show", name)

    assert result.exit_code == 0
    shown = result.stdout.splitlines()
    for option in pass_class(name)().options():
        line = next(line for line in shown if line.strip().startswith(option.replace("_", "-") + " "))
        assert len(line.split()) > 2, f"option '{option}' has no text under its field"


def test_passes_as_json(invoke: Invoke) -> None:
    found = json.loads(invoke("passes", "list", "--json").stdout)["passes"]

    assert [entry["name"] for entry in found] == list(pass_names())
    assert all(entry["documentation"] and entry["exactness"] for entry in found)


def test_lists_every_target(invoke: Invoke) -> None:
    result = invoke("targets", "list")

    assert result.exit_code == 0
    for name in list_targets():
        assert name in result.stdout


@pytest.mark.parametrize("name", list_targets())
def test_shows_a_target_with_sources(invoke: Invoke, name: str) -> None:
    text, document = invoke("targets", "show", name), invoke("targets", "show", name, "--json")

    assert text.exit_code == 0
    assert "compute.f32" in text.stdout
    assert json.loads(document.stdout)["compute"]["f32"] > 0


def test_the_cache_is_shown_and_cleared(invoke: Invoke, tmp_path: Path) -> None:
    from adapass.cache import Cache

    cache = Cache(tmp_path / "cache")
    cache.put("region-latency", "a", 1.0)
    cache.put("finals", "b", 2.0)

    assert json.loads(invoke("cache", "info", "--json").stdout)["kinds"]["finals"]["entries"] == 1
    assert "removed 1 entries" in invoke("cache", "clear", "--kind", "finals").stdout
    assert cache.get("region-latency", "a") == 1.0
    assert "removed 1 entries" in invoke("cache", "clear").stdout
    assert json.loads(invoke("cache", "info", "--json").stdout)["kinds"]["region-latency"]["entries"] == 0


def test_doctor_finds_what_is_installed_and_says_what_is_not(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapass.cli import doctor

    monkeypatch.setattr(doctor, "EXTRAS", {"no-such-package": "imaginary"})
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    result = invoke("doctor")
    found = json.loads(invoke("doctor", "--json").stdout)

    assert result.exit_code == 0
    assert "pip install 'adapass[imaginary]'" in result.stdout
    assert found["versions"]["onnxruntime"]
    assert found["versions"]["no-such-package"] is None
    assert found["generators"]["onnxruntime"] == "ready"
    assert found["threads"]["OMP_NUM_THREADS"] == "7"
    assert set(found["targets"]) == set(list_targets())
