"""A small residual classifier, its narrowed self, and unlabeled data for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Feeds
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import parse

WIDTH, HIDDEN, CLASSES = 8, 12, 4


def weights(rows: int, columns: int, seed: int) -> str:
    values = np.random.default_rng(seed).standard_normal((rows, columns)) / np.sqrt(rows)
    return ", ".join(f"{x:.5f}" for x in values.reshape(-1))


def residual_model() -> ir.Model:
    return parse(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, {WIDTH}] x) => (float[N, {CLASSES}] y)
        <float[{WIDTH}, {WIDTH}] w0 = {{{weights(WIDTH, WIDTH, 0)}}},
         float[{WIDTH}, {HIDDEN}] a1 = {{{weights(WIDTH, HIDDEN, 1)}}},
         float[{HIDDEN}, {WIDTH}] b1 = {{{weights(HIDDEN, WIDTH, 2)}}},
         float[{WIDTH}, {HIDDEN}] a2 = {{{weights(WIDTH, HIDDEN, 3)}}},
         float[{HIDDEN}, {WIDTH}] b2 = {{{weights(HIDDEN, WIDTH, 4)}}},
         float[{WIDTH}, {CLASSES}] head = {{{weights(WIDTH, CLASSES, 5)}}}> {{
            h0 = MatMul(x, w0)
            p1 = MatMul(h0, a1)
            r1 = Relu(p1)
            q1 = MatMul(r1, b1)
            h1 = Add(h0, q1)
            p2 = MatMul(h1, a2)
            r2 = Relu(p2)
            q2 = MatMul(r2, b2)
            h2 = Add(h1, q2)
            y = MatMul(h2, head)
        }}
        """
    )


def narrowed(model: ir.Model, kept: int) -> ir.Model:
    """Only the first ``kept`` neurons of both blocks."""
    copy = model.clone()
    for name, axis in (("a1", 1), ("b1", 0), ("a2", 1), ("b2", 0)):
        value = copy.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().take(range(kept), axis)
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)
    infer_shapes(copy)
    return copy


@dataclass(frozen=True)
class Rows:
    """Samples whose labels must not be looked at."""

    x: Array

    def __len__(self) -> int:
        return len(self.x)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self.x[list(indices)]}

    @property
    def labels(self) -> Array | None:
        raise AssertionError("healing looked at the labels")


@pytest.fixture
def original() -> ir.Model:
    return residual_model()


@pytest.fixture
def pruned(original: ir.Model) -> ir.Model:
    return narrowed(original, HIDDEN // 2)


@pytest.fixture
def samples() -> Rows:
    return Rows(np.random.default_rng(7).standard_normal((240, WIDTH)).astype(np.float32))


@pytest.fixture
def narrow() -> Callable[[ir.Model, int], ir.Model]:
    return narrowed
