"""What is installed is complete: run against the wheel in an environment without the checkout on the path."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

import adapass
from adapass.registry import generator, generator_names, pass_class, pass_names
from adapass.target import list_targets, load_target


@pytest.mark.parametrize("name", adapass.__all__)
def test_public_names_resolve(name: str) -> None:
    if name == "trace":
        pytest.importorskip("torch")

    assert getattr(adapass, name) is not None


def test_passes_generators_and_targets_are_there() -> None:
    assert all(pass_class(name)().name == name for name in pass_names())
    assert all(generator(name).name == name for name in generator_names())
    assert len(pass_names()) > 10
    assert all(load_target(name) is not None for name in list_targets())


def test_the_demo_files_and_the_type_marker_are_there() -> None:
    package = files("adapass")

    for name in ("py.typed", "assets/demo.onnx", "assets/demo_fit.npz", "assets/demo_eval.npz"):
        assert package.joinpath(name).is_file(), name


def test_the_command_runs() -> None:
    code = "from adapass.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "passes", "list"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "quantize-8bit" in done.stdout
