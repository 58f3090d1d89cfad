"""Twins of trained models and of the light models in onnx's wheel, at two batch sizes and lengths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.graph.inputs import generate_feeds
from adapass.graph.load import load_model

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.twin.build import build_twin  # noqa: E402

SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[3] / "shared"))
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        assert np.abs(found[name] - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.real_models
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason=f"no trained models in {SHARED}")
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("resnet20-cifar10", "cifar10"),
        ("resnet56-cifar10", "cifar10"),
        ("vit-cifar10", "cifar10"),
        ("minilm-sst2", "sst2"),
        ("minilm-agnews", "agnews"),
    ],
)
def test_trained_models_agree_with_onnx_runtime(name: str, data: str) -> None:
    model = load_model(SHARED / "models" / f"{name}.onnx")
    twin, session = build_twin(model), Session(model)
    with np.load(SHARED / "data" / f"{data}_fit.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key][:3] for key in archive.files if key != "labels"}

    for batch, length in ((1, 40), (3, 17)):
        feeds = {key: x[:batch, :length] if x.ndim == 2 else x[:batch] for key, x in arrays.items()}
        agree(twin.run(feeds), session.run(feeds))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "bvlc_alexnet"])
def test_light_models_agree_with_onnx_runtime(name: str) -> None:
    model = load_model(LIGHT / f"light_{name}.onnx")
    feeds = generate_feeds(model, seed=0, cases=1)[0]
    scores = scores_of(model)

    agree(build_twin(model, outputs=[scores]).run(feeds), Session(model, outputs=[scores]).run(feeds))


def scores_of(model: ir.Model) -> str:
    """What goes into the last Softmax: weights of 0.02 throughout make scores of 1e9, rounded to hundreds."""
    node = model.graph.outputs[0].producer()
    assert node is not None
    value = node.inputs[0] if node.op_type == "Softmax" else node.outputs[0]
    assert value is not None
    return value.name or ""
