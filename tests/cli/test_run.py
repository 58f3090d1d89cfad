from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

Invoke = Callable[..., Result]

EXPECTED = np.arange(15, dtype=np.float32).reshape(5, 3) @ np.array([[1, 2], [3, 4], [5, 6]], np.float32)


@pytest.mark.parametrize(
    "options", [(), ("--batch", 2), ("--batch", 100)], ids=["at-once", "in-parts", "large-batch"]
)
def test_writes_the_outputs_in_order(
    invoke: Invoke, model: Path, inputs: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    result = invoke("run", model, inputs, "-o", tmp_path / "out.npz", *options)

    assert result.exit_code == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as outputs:
        assert list(outputs) == ["y"]
        np.testing.assert_array_equal(outputs["y"], EXPECTED)
    assert "[5, 2]" in result.stdout
    assert "'labels' in" in result.stderr


def test_prints_json_alone_on_stdout(invoke: Invoke, model: Path, inputs: Path) -> None:
    result = invoke("run", model, inputs, "--json", "-q")

    assert json.loads(result.stdout) == {
        "outputs": {"y": {"dtype": "float32", "shape": [5, 2]}},
        "exits": {},
        "file": None,
    }
    assert result.stderr == ""


def test_names_an_input_that_does_not_fit(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 4), np.float32))

    result = invoke("run", model, tmp_path / "bad.npz")

    assert result.exit_code == 2
    assert "input 'x' has shape [2, 4], expected [N, 3]" in result.stderr


def test_refuses_pickles(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.array([object()], dtype=object))

    result = invoke("run", model, tmp_path / "bad.npz")

    assert result.exit_code == 2
    assert "bad.npz" in result.stderr


def test_refuses_to_cut_inputs_of_different_length(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 3), np.float32), z=np.zeros(3, np.float32))

    result = invoke("run", model, tmp_path / "bad.npz", "--batch", 1)

    assert result.exit_code == 2
    assert "leave --batch out" in result.stderr


def test_an_output_folder_must_exist_before_the_work_starts(
    invoke: Invoke, model: Path, inputs: Path
) -> None:
    result = invoke("run", model, inputs, "-o", "nowhere/out.npz")

    assert result.exit_code == 2
    assert "create it" in result.stderr


def test_a_failed_run_leaves_the_old_outputs(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_bytes(b"old")
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 4), np.float32))

    invoke("run", model, tmp_path / "bad.npz", "-o", tmp_path / "out.npz")

    assert (tmp_path / "out.npz").read_bytes() == b"old"
    assert not list(tmp_path.glob("*.partial"))
