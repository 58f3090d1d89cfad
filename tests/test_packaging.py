"""The layout holds: linked packages, __init__ files, and imports that point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("passes", "codegen", "targets")
FORBIDDEN = {
    "targets": ("adapass",),
    "adapass": ("adapass.passes", "adapass.codegen", "adapass.cli"),
    "passes": ("adapass.codegen", "adapass.cli"),
    "codegen": ("adapass.passes", "adapass.cli"),
}
"""What the code of each folder must not import. The command line may import everything."""

needs_checkout = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="only in a source checkout")


def _sources(folder: str) -> Iterator[Path]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        if "__pycache__" not in file.parts and "cli" not in file.relative_to(ROOT / folder).parts:
            yield file


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@needs_checkout
@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    files = list(_sources(folder))
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in _imported(file)
        for banned in FORBIDDEN[folder]
        if name == banned or name.startswith(f"{banned}.")
    ]

    assert files
    assert wrong == []


@needs_checkout
def test_every_folder_with_code_is_a_package() -> None:
    folders = {file.parent for name in ("adapass", *MAPPED) for file in (ROOT / name).rglob("*.py")}

    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


@needs_checkout
def test_the_linked_tree_mirrors_the_folders() -> None:
    """Run tools/link_packages.py when this fails."""
    expected = {path.name for path in (ROOT / "adapass").iterdir() if path.name != "__pycache__"} | set(
        MAPPED
    )
    linked = {path.name: path.resolve() for path in (ROOT / ".pkg" / "adapass").iterdir()}

    assert set(linked) == expected
    assert all(path.exists() for path in linked.values())


def test_the_demo_model_names_no_folder_of_a_machine() -> None:
    content = (ROOT / "adapass" / "assets" / "demo.onnx").read_bytes()

    assert b'File "' not in content
