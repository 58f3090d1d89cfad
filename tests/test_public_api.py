from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import adapass

HEAVY = (
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "scipy",
    "networkx",
    "torch",
    "pydantic",
    "yaml",
    "typer",
    "rich",
)


@pytest.mark.parametrize("name", adapass.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(adapass, name) is not None


def test_names_are_sorted_and_unique() -> None:
    assert sorted(set(adapass.__all__)) == list(adapass.__all__)
    assert set(adapass.__all__) <= set(dir(adapass))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        getattr(adapass, "optimise")  # noqa: B009  (a constant name would be a type error)


def imported_by(code: str) -> set[str]:
    """Names of all modules in memory after ``code`` ran in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_importing_adapass_imports_nothing_heavy() -> None:
    assert imported_by("import adapass").isdisjoint(HEAVY)


def test_the_errors_are_light_too() -> None:
    assert imported_by("import adapass; adapass.AdapassError; adapass.__version__").isdisjoint(HEAVY)


def test_a_module_of_the_same_name_does_not_hide_a_function() -> None:
    code = "import adapass.trace; assert callable(adapass.trace)"

    assert "adapass.trace" in imported_by(code)


def test_type_checkers_and_users_see_the_same_names() -> None:
    tree = ast.parse(Path(adapass.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert imported | {"__version__"} == set(adapass.__all__)
