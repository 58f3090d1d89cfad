"""What stays of large weights in a file is read from there when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from adapass.coupling.groups import find_coupling
from adapass.coupling.remove import remove
from adapass.graph.digest import digest
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.graph.text import clone
from tests.coupling.conftest import keep_most

Build = Callable[..., ir.Model]


@pytest.fixture
def file(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("adapass.coupling.remove.LARGE_BYTES", 1000)
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 1)
    model = build(
        "float[batch, 20] x",
        "float[batch, 5] y",
        {"w": (20, 30), "v": (30, 12), "wy": (12, 5)},
        "h = MatMul(x, w) a = Relu(h) b = MatMul(a, v) y = MatMul(b, wy)",
    )
    save_model(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def cut(file: Path) -> ir.Model:
    model = load_model(file)
    remove(model, {group.key: keep_most(group) for group in find_coupling(model).groups})
    return model


@pytest.fixture
def expected(cut: ir.Model, file: Path) -> str:
    """The digest of the same removal in memory."""
    whole = load_model(file)
    for value in whole.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    remove(whole, {group.key: keep_most(group) for group in find_coupling(whole).groups})
    assert {type(value.const_value) for value in whole.graph.initializers.values()} == {ir.Tensor}
    return digest(whole)


def test_nothing_large_is_read(cut: ir.Model, expected: str) -> None:
    kinds = {name: type(value.const_value) for name, value in cut.graph.initializers.items()}

    assert kinds == {"w": ir.LazyTensor, "v": ir.LazyTensor, "wy": ir.Tensor}
    assert digest(cut) == expected


def test_a_second_removal_takes_from_the_first(cut: ir.Model) -> None:
    group = find_coupling(cut).groups[0]
    again, twin = clone(cut), clone(cut)
    for value in twin.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)

    for model in (again, twin):
        remove(model, {group.key: [0, 2, 3]})

    assert digest(again) == digest(twin)


def test_a_cut_model_may_replace_the_file_it_reads(cut: ir.Model, expected: str, file: Path) -> None:
    save_model(cut, file)

    assert digest(load_model(file)) == digest(cut) == expected
