"""Artifacts whose files a real generator wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from adapass.artifact import GeneratorInfo, load_artifact, read_artifact
from adapass.errors import AdapassError
from adapass.graph.load import load_model
from adapass.registry import generator
from adapass.target import load_target


class Maker(Protocol):
    folder: Path
    model: Path

    def write_built(self, built: Path, name: str = ..., **changes: object) -> Path: ...


X = np.arange(12, dtype=np.float32).reshape(4, 3)
EXPECTED = X @ np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def build(maker: Maker, variant_index: int = 0) -> tuple[Path, GeneratorInfo]:
    """Files of ONNX Runtime's generator for the model, which is replaced by the portable file."""
    model, target, chosen = load_model(maker.model), load_target("cpu"), generator("onnxruntime")
    variant = chosen.variants(model, target, threads=1, batch=1)[variant_index]
    built = maker.folder / "built"
    built.mkdir()
    chosen.build(model, target, built, variant.options)
    maker.model.write_bytes((built / "model.onnx").read_bytes())
    return built, GeneratorInfo(name="onnxruntime", variant=variant.name, options=dict(variant.options))


def test_a_portable_build_is_stored_once_and_runs(maker: Maker) -> None:
    built, info = build(maker)
    folder = maker.write_built(built, generator=info)

    models = [name for name in read_artifact(folder).manifest.files if name.endswith(".onnx")]
    assert models == ["model.onnx"]
    with load_artifact(folder, threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": X})["y"], EXPECTED)


def test_an_artifact_that_moved_still_runs(maker: Maker) -> None:
    built, info = build(maker)
    folder = maker.write_built(built, generator=info)
    moved = folder.rename(maker.folder / "elsewhere")

    with load_artifact(moved, threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": X})["y"], EXPECTED)


def test_a_damaged_build_is_not_opened(maker: Maker) -> None:
    built, info = build(maker)
    folder = maker.write_built(built, generator=info)
    path = folder / "onnxruntime.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))

    with pytest.raises(AdapassError, match=r"onnxruntime\.json"):
        load_artifact(folder, threads=1)
