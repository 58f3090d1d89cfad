from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from adapass.graph.digest import digest
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from tests.deltas.conftest import MakeFine, network
from tests.deltas.conftest import make_fine as make_fine
from tests.passes.rows import weight

Invoke = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path, make_fine: MakeFine) -> tuple[Path, Path]:
    save_model(network(), tmp_path / "base.onnx")
    save_model(make_fine(size=0.1), tmp_path / "fine.onnx")
    return tmp_path / "base.onnx", tmp_path / "fine.onnx"


def test_packs_and_unpacks_bit_for_bit(invoke: Invoke, files: tuple[Path, Path], tmp_path: Path) -> None:
    packed = invoke("pack", *files, "-o", "d.adelta", "--density", 1, "--exact")
    unpacked = invoke("unpack", files[0], "d.adelta", "-o", "made.onnx")

    assert packed.exit_code == unpacked.exit_code == 0, packed.stderr + unpacked.stderr
    assert (tmp_path / "made.onnx").read_bytes() == files[1].read_bytes()
    assert "bit for bit the fine-tune" in unpacked.stdout


def test_reports_bytes_ratio_and_error(invoke: Invoke, files: tuple[Path, Path], tmp_path: Path) -> None:
    found = json.loads(invoke("pack", *files, "-o", "d.adelta", "--density", 0.1, "--json").stdout)

    assert found["fine_tune_bytes"] == files[1].stat().st_size
    assert found["delta_bytes"] == (tmp_path / "d.adelta").stat().st_size
    assert found["times_smaller"] == pytest.approx(found["fine_tune_bytes"] / found["delta_bytes"])
    assert 0.0 < found["relative_error_of_the_change"] < 1.0
    assert found["exact"] is False


def test_data_chooses_and_measures(invoke: Invoke, files: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=weight(7, 200, 32))

    result = invoke(
        "pack", *files, "-o", "d.adelta", "--data", "x.npz", "--agreement", 0.8, "--threads", 1, "--json"
    )

    found = json.loads(result.stdout)
    assert found["agreement"] > found["agreement_of_the_base"]
    assert found["samples_of_the_agreement"] == 100


def test_another_base_and_a_damaged_file_are_refused(
    invoke: Invoke, files: tuple[Path, Path], tmp_path: Path
) -> None:
    invoke("pack", *files, "-o", "d.adelta")

    other = invoke("unpack", files[1], "d.adelta", "-o", "made.onnx")
    (tmp_path / "d.adelta").write_bytes((tmp_path / "d.adelta").read_bytes()[:-5])
    damaged = invoke("unpack", files[0], "d.adelta", "-o", "made.onnx")

    assert other.exit_code == damaged.exit_code == 2
    assert "give the model that it was packed against" in other.stderr
    assert "truncated or damaged" in damaged.stderr
    assert not (tmp_path / "made.onnx").exists()


def test_options_that_contradict_are_refused(invoke: Invoke, files: tuple[Path, Path]) -> None:
    result = invoke("pack", *files, "-o", "d.adelta", "--exact", "--density", 0.1)

    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_a_model_with_another_graph_is_refused(invoke: Invoke, files: tuple[Path, Path], model: Path) -> None:
    result = invoke("pack", files[0], model, "-o", "d.adelta")

    assert result.exit_code == 2
    assert "another graph than the base" in result.stderr
    assert digest(load_model(files[0]))
