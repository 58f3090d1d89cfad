"""Shapes: dimensions as functions of batch and tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from adapass.analyses.shapes import Shapes
from adapass.errors import ModelError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.ops import EXPECTED_SHARE, SELECT_TOKENS, add_function

Build = Callable[..., FactCache]


def flattened(build: Build) -> FactCache:
    body = "s = Shape(x) two = Constant<value_ints = [-1, 4]>() rows = Reshape(x, two) y = Reshape(rows, s)"
    return build("float[B, T, 4] x", "float[B, T, 4] y", {}, body)


def test_sees_through_computed_targets(build: Build) -> None:
    shapes = flattened(build).get(Shapes)

    assert shapes.probed
    assert shapes.at("rows", 5, 7) == (35, 4)
    assert shapes.at("y", 5, 7) == (5, 7, 4)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (6, 32)])
def test_agrees_with_a_run_at_other_sizes(build: Build, size: tuple[int, int]) -> None:
    facts = build(
        "float[B, T, 4] x",
        "float[B, U, 2] y",
        {"cls": (1, 1, 4), "w": (4, 2)},
        """
        s = Shape<start = 0, end = 1>(x)
        ones = Constant<value_ints = [1, 4]>()
        target = Concat<axis = 0>(s, ones)
        token = Expand(cls, target)
        all = Concat<axis = 1>(token, x)
        y = MatMul(all, w)
        """,
    )
    batch, tokens = size
    run = Session(facts.model, outputs=["all", "token", "y"]).run(
        {"x": np.zeros((batch, tokens, 4), np.float32)}
    )

    assert {name: facts.get(Shapes).at(name, batch, tokens) for name in run} == {
        name: array.shape for name, array in run.items()
    }


def test_fixed_shapes_need_no_run(build: Build) -> None:
    shapes = build("float[1, 3] x", "float[1, 3] y", {}, "y = Relu(x)").get(Shapes)

    assert not shapes.probed
    assert shapes.at("y", 1, 1) == (1, 3)


def test_knows_types_and_tells_floats(build: Build) -> None:
    shapes = build("float[B, 3] x", "int64[2] y", {}, "h = Relu(x) y = Shape(h)").get(Shapes)

    assert shapes.dtypes["y"] == ir.DataType.INT64
    assert shapes.is_float("h")
    assert not shapes.is_float("y")


def test_a_model_that_cannot_run_keeps_what_inference_knows(build: Build) -> None:
    # Index 9 is out of range for every made-up id, 0 as well as 1.
    body = "big = Constant<value_int = 9>() i = Add(ids, big) h = Gather(w, i) y = Relu(h)"
    shapes = build("int64[B, T] ids", "float[B, T, 4] y", {"w": (3, 4)}, body).get(Shapes)

    assert not shapes.probed
    assert shapes.at("h", 5, 7) == (5, 7, 4)


def test_ids_that_must_be_zero(build: Build) -> None:
    shapes = build("int64[B, T] ids", "float[B, T, 4] y", {"w": (1, 4)}, "y = Gather(w, ids)").get(Shapes)

    assert shapes.probed


def test_reads_symbols_by_their_place(build: Build) -> None:
    inputs = "float[B, T] x, float[B, H, 4, W] image"
    symbols = build(inputs, "float[B, T] y", {}, "y = Relu(x)").get(Shapes).symbols

    assert symbols.batch == frozenset({"B"})
    assert symbols.tokens == frozenset({"T"})
    assert set(symbols.other) == {"H", "W"}


def test_image_sides_of_any_size(build: Build) -> None:
    shapes = build("float[B, 3, H, W] x", "float[B, 3, H, W] y", {}, "h = Relu(x) y = Neg(h)").get(Shapes)

    assert shapes.at("h", 2, 1) == (2, 3, 64, 64)
    assert not shapes.dynamic_tokens


def test_does_not_change_the_model(build: Build) -> None:
    facts = flattened(build)
    before = [(value.name, value.shape) for node in facts.model.graph for value in node.outputs]

    facts.get(Shapes)

    assert [(value.name, value.shape) for node in facts.model.graph for value in node.outputs] == before
    assert [value.name for value in facts.model.graph.outputs] == ["y"]


@pytest.mark.parametrize("share", ["much", "0", "-0.5", "inf", "nan"])
def test_a_share_of_tokens_that_is_none_is_named(share: str) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "adapass" : 1]>
    g (float[B, T] score, int64[B] count) => (int64[B, K] kept, bool[B, K] valid)
    { kept, valid = adapass.SelectTokens(score, count) }"""
    model = ir.from_onnx_text(text)
    add_function(model, SELECT_TOKENS)
    next(iter(model.graph)).metadata_props[EXPECTED_SHARE] = share

    with pytest.raises(ModelError, match=f"of 'kept' is '{share}', expected a share above 0 up to 1"):
        FactCache(model).get(Shapes)
