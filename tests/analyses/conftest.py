"""Small models from ONNX text, and the trained ones of the shared folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import pytest

from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import parse

Build = Callable[..., FactCache]


@pytest.fixture
def build() -> Build:
    """``build("float[batch, 8] x", "float[batch, 2] y", {"w": (8, 2)}, "y = MatMul(x, w)")``."""

    def make(
        inputs: str, outputs: str, weights: Mapping[str, tuple[int, ...]], body: str, *, opset: int = 20
    ) -> FactCache:
        stored = ", ".join(_weight(name, shape) for name, shape in weights.items())
        versions = f'ir_version: 11, opset_import: ["": {opset}]'
        return FactCache(parse(f"<{versions}> m ({inputs}) => ({outputs}) <{stored}> {{ {body} }}"))

    return make


def _weight(name: str, shape: tuple[int, ...]) -> str:
    numbers = ", ".join(str((7 * index % 11 - 5) / 10) for index in range(prod(shape)))
    return f"float[{', '.join(map(str, shape))}] {name} = {{{numbers}}}"


@pytest.fixture
def shared_model() -> Callable[[str], FactCache]:
    """Facts of a trained model; skips where the shared folder is absent."""

    def load(name: str) -> FactCache:
        default = Path(__file__).parents[2].parent / "shared"
        file = Path(os.environ.get("ADAPASS_SHARED", default)) / "models" / name
        if not file.is_file():
            pytest.skip(f"{file} is absent: set ADAPASS_SHARED to the folder with the trained models")
        return FactCache(load_model(file))

    return load
