"""The trained models: every kind of group is found, and removal is what zeroing says it is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling, find_coupling
from adapass.graph.load import load_model

pytestmark = pytest.mark.real_models


@pytest.fixture
def shared_model() -> Callable[[str], ir.Model]:
    def load(name: str) -> ir.Model:
        default = Path(__file__).parents[2].parent / "shared"
        file = Path(os.environ.get("ADAPASS_SHARED", default)) / "models" / name
        if not file.is_file():
            pytest.skip(f"{file} is absent: set ADAPASS_SHARED to the folder with the trained models")
        return load_model(file)

    return load


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        pytest.param("resnet20-cifar10.onnx", {"stream": 5, "channels": 9}, id="resnet"),
        pytest.param(
            "minilm-sst2.onnx", {"stream": 1, "heads": 6, "head-width": 12, "neurons": 7}, id="minilm"
        ),
        pytest.param(
            "vit-cifar10.onnx",
            {"stream": 1, "channels": 1, "heads": 9, "head-width": 9, "neurons": 9},
            id="vision-transformer",
        ),
    ],
)
def test_everything_at_once(
    name: str,
    kinds: dict[str, int],
    shared_model: Callable[[str], ir.Model],
    removes_at_once: Callable[[ir.Model], Coupling],
) -> None:
    model = shared_model(name)

    coupling = removes_at_once(model)

    assert Counter(group.kind for group in coupling.groups) == kinds
    exact = {group.kind for group in coupling.groups if group.exact}
    assert {"heads", "head-width", "neurons", "channels"} & set(kinds) <= exact


def test_all_of_a_deep_residual_network_can_be_cut(shared_model: Callable[[str], ir.Model]) -> None:
    """27 pairs of convolutions, and the streams of three stages, of which two are padded shortcuts."""
    coupling = find_coupling(shared_model("resnet56-cifar10.onnx"))

    assert Counter(group.kind for group in coupling.groups) == {"channels": 27, "stream": 5}
    assert {refusal.reason for refusal in coupling.refusals} == {
        "it is an axis of the model's input 'image'",
        "it is an axis of the model's output 'logits'",
    }
