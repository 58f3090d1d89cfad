"""remove-unread-positions: the last layer runs on the one position that is read, with the same result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import clone, parse
from adapass.passes.prune.position_rules import positions_read
from adapass.passes.prune.remove_unread_positions import RemoveUnreadPositions
from adapass.pipeline import Pipeline
from tests.passes.prune.nets import TOKENS, Sentences, network

POOLING = """
    mt = Unsqueeze (mf, last)
    tm = Mul (t, mt)
    pool = ReduceSum <keepdims = 0> (tm, tokens)
"""
SELECTING = (
    TOKENS.replace(POOLING, "\n    pool = Gather <axis = 1> (t, place)\n")
    .replace("int64[1] tokens = {1}", "int64 place = {PLACE}")
    .replace("int64[1] last = {-1}, ", "")
)
SMALL = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, T, 2] x) => (float[N, 2] y OTHER)
<float[2, 2] w = {1, 2, 3, 4}, int64 place = {PLACE}, int64[2] both = {0, 1}>
{
    LINE
    y = Gather <axis = 1> (READ, place)
}
"""


def _transformer(place: int = 0) -> ir.Model:
    return network(SELECTING.replace("PLACE", str(place)))


def _small(line: str = "h = MatMul (x, w)", *, place: int = 0, other: str = "", read: str = "h") -> ir.Model:
    filled = SMALL.replace("LINE", line).replace("PLACE", str(place)).replace("OTHER", other)
    return parse(filled.replace("READ", read))


def _sizes(model: ir.Model) -> dict[str, tuple[object, ...]]:
    return {str(node.outputs[0].name): tuple(node.outputs[0].shape or ()) for node in model.graph}


@pytest.mark.parametrize("place", [0, -1])
def test_the_last_layer_runs_on_one_position(place: int) -> None:
    model = _transformer(place)
    data = Sentences(16)

    result = Pipeline([RemoveUnreadPositions()]).run(model, data=data)

    assert result.results[0].sites == ("pool",)
    sizes = _sizes(result.model)
    for name in ("q", "i", "f", "o", "t"):
        assert sizes[name][1] == 1, name
    for name in ("k", "v"):
        assert sizes[name][1] != 1, name
    for batch in ([0], [1, 2, 3], [4, 5]):
        feed = dict(data.batch(batch))
        before, after = (Session(each).run(feed)["y"] for each in (model, result.model))
        np.testing.assert_allclose(
            np.asarray(before, np.float64), np.asarray(after, np.float64), rtol=1e-5, atol=1e-6
        )


def test_it_settles() -> None:
    once = Pipeline([RemoveUnreadPositions()]).run(_transformer(), data=Sentences(8)).model
    before = digest(once)

    result = RemoveUnreadPositions().run(once, FactCache(once))

    assert not result.changed
    assert digest(once) == before


def test_only_the_sites_asked_for() -> None:
    model = _transformer()

    assert not RemoveUnreadPositions().run(model, FactCache(model), frozenset({"other"})).changed


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(
            _small(place=1), "not the first or the last position is read, or several are", id="place"
        ),
        pytest.param(_small("h = Identity (x)"), "no product computes", id="no-product"),
        pytest.param(_small("g = MatMul (x, w)\n h = CumSum (g, place)"), "no product computes", id="mixes"),
        pytest.param(
            _small("h = MatMul (x, w)", other=", float[N, T, 2] h"), "no product computes", id="an-output"
        ),
        pytest.param(
            _small("h = MatMul (x, w)\n r = ReduceMax (h)", other=", float[1, 1, 1] r"),
            "no product computes",
            id="read-by-another",
        ),
        pytest.param(
            _small("h = Identity (x)", read="x"),
            "what is read is not computed",
            id="an-input",
        ),
    ],
)
def test_it_declines_with_a_reason(model: ir.Model, reason: str) -> None:
    before = digest(clone(model))

    result = RemoveUnreadPositions().run(model, FactCache(model))

    assert not result.changed
    assert [key for key in result.rejected if reason in key], result.rejected
    assert digest(model) == before


RULES = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, T, 6] x, float[1, T, 6] one, float[6] v) => (float[N, T, 6] y)
<int64[4] heads = {0, 0, 2, 3}, int64[4] free = {0, -1, 2, 3}, int64[4] moved = {0, 0, -1, 6},
 int64[3] flat = {0, -1, 3}, float[6] g = {1, 1, 1, 1, 1, 1}>
{
    a_sum = Add (x, one)
    a_vector = Mul (x, v)
    a_heads = Reshape (x, heads)
    a_free = Reshape (x, free)
    a_flat = Reshape (x, flat)
    a_turned = Transpose <perm = [2, 0, 1]> (x)
    a_softmax = Softmax <axis = -1> (x)
    a_wrong_softmax = Softmax <axis = 1> (x)
    a_norm = LayerNormalization <axis = -1> (x, g)
    a_wide_norm = LayerNormalization <axis = 1> (x, g)
    y = Identity (x)
}
"""


@pytest.mark.parametrize(
    ("name", "axis", "reads"),
    [
        ("a_sum", 1, {"x": 1, "one": 1}),
        ("a_sum", 0, {"x": 0}),
        ("a_vector", 1, {"x": 1}),
        ("a_vector", 2, {"x": 2, "v": 0}),
        ("a_heads", 1, {"x": 1}),
        ("a_heads", 2, None),
        ("a_free", 1, {"x": 1}),
        ("a_flat", 1, None),
        ("a_turned", 2, {"x": 1}),
        ("a_softmax", 1, {"x": 1}),
        ("a_wrong_softmax", 1, None),
        ("a_norm", 1, {"x": 1}),
        ("a_wide_norm", 1, None),
    ],
)
def test_what_one_position_is_computed_from(name: str, axis: int, reads: dict[str, int] | None) -> None:
    model = parse(RULES)
    infer_shapes(model)
    node = next(node for node in model.graph if node.outputs[0].name == name)

    found = positions_read(node, axis)

    assert (None if found is None else {value.name: at for value, at in found}) == reads


@pytest.mark.parametrize(
    ("left", "right", "axis", "reads"),
    [
        ("N, 3, T, 4", "N, 3, 4, T", 2, {"l": 2}),
        ("N, 3, T, 4", "N, 3, 4, T", 3, None),
        ("N, 3, T, 4", "1, 3, 4, T", 0, {"l": 0}),
        ("N, 3, T, 4", "3, 4, T", 1, {"l": 1, "r": 0}),
    ],
)
def test_rows_of_products(left: str, right: str, axis: int, reads: dict[str, int] | None) -> None:
    model = parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[{left}] l, float[{right}] r) => (float[A, B, C, D] y) {{ y = MatMul (l, r) }}"
    )

    found = positions_read(next(iter(model.graph)), axis)

    assert (None if found is None else {value.name: at for value, at in found}) == reads
