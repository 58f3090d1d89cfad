"""remove-dead-units: what nobody reads or what is always zero goes; everything else stays, with a reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.text import clone, parse
from adapass.passes.prune.linear_ops import store, stored
from adapass.passes.prune.remove_dead_units import RemoveDeadUnits
from adapass.pipeline import Pipeline
from tests.passes.prune.nets import CONVS, TOKENS, Images, Sentences, network

HIDDEN = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 2] x) => (float[N, 2] y)
<float[2, 3] w = {1, 0, 2, 3, 0, 4}, float[3] b = {0.5, BIAS, 0}, float[3, 2] v = {1, 2, READ, 5, 6}>
{
    h = MatMul (x, w)
    hb = Add (h, b)
    a = ACT (hb)
    y = MatMul (a, v)
}
"""


def _hidden(*, bias: str = "0", read: str = "3, 4", act: str = "Relu") -> ir.Model:
    return parse(HIDDEN.replace("BIAS", bias).replace("READ", read).replace("ACT", act))


def _zero(model: ir.Model, name: str, axis: int, positions: list[int]) -> None:
    array = np.moveaxis(stored(model, name).copy(), axis, 0)
    array[positions] = 0.0
    store(model, name, np.moveaxis(array, 0, axis))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_hidden(), id="written-with-zero"),
        pytest.param(_hidden(act="Tanh"), id="zero-stays-zero"),
        pytest.param(_hidden(bias="7", read="0, 0"), id="read-with-zero"),
        pytest.param(_hidden(bias="7", read="0, 0", act="Sigmoid"), id="read-with-zero-whatever-it-is"),
    ],
)
def test_dead_neurons_go_and_the_numbers_stay(model: ir.Model) -> None:
    result = Pipeline([RemoveDeadUnits()]).run(model)

    assert stored(result.model, "w").tolist() == [[1, 2], [3, 4]]
    assert stored(result.model, "v").tolist() == [[1, 2], [5, 6]]
    feed = {"x": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)}
    before, after = (
        np.asarray(Session(each, outputs=["y"]).run(feed)["y"], np.float64) for each in (model, result.model)
    )
    np.testing.assert_allclose(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_hidden(bias="0.1"), id="a-bias-wakes-it"),
        pytest.param(_hidden(act="Sigmoid"), id="zero-becomes-a-half"),
        pytest.param(_hidden(bias="1", read="0, 4"), id="one-reader-column-counts"),
    ],
)
def test_units_that_do_something_stay(model: ir.Model) -> None:
    before = digest(model)
    result = RemoveDeadUnits().run(model, FactCache(model))

    assert not result.changed
    assert result.rejected == {"all units do something": 1}
    assert digest(model) == before


def test_dead_channels_go_from_every_place() -> None:
    model = network(CONVS)
    _zero(model, "w1", 0, [1, 4])
    _zero(model, "b1", 0, [1, 4])
    _zero(model, "w4", 1, [0])

    result = Pipeline([RemoveDeadUnits()]).run(model, data=Images())

    assert result.results[0].sites == ("w1:0", "w3:0")
    assert stored(result.model, "w2").shape == (8, 6, 3, 3)
    assert stored(result.model, "w4").shape == (8, 7, 3, 3)


def test_a_channel_of_the_stream_needs_all_its_writers_silent() -> None:
    model = network(CONVS)
    for weight, bias in (("w0", "b0"), ("w2", "b2")):
        _zero(model, weight, 0, [3])
        _zero(model, bias, 0, [3])
    assert not RemoveDeadUnits().run(clone(model), FactCache(clone(model))).changed
    _zero(model, "w4", 0, [3])
    _zero(model, "b4", 0, [3])

    result = Pipeline([RemoveDeadUnits()]).run(model, data=Images())

    assert result.results[0].sites == ("w0:0",)


def test_heads_that_nobody_reads_go() -> None:
    model = network(TOKENS)
    _zero(model, "wo", 0, [4, 5])

    result = Pipeline([RemoveDeadUnits()]).run(model, data=Sentences(8))

    assert stored(result.model, "wq").shape == (8, 6)


def test_groups_under_a_normalisation_are_left_alone_and_one_unit_stays() -> None:
    model = network(TOKENS)
    for name in ("wi", "bi"):
        _zero(model, name, stored(model, name).ndim - 1, list(range(16)))

    result = RemoveDeadUnits().run(model, FactCache(model))

    assert stored(model, "wi").shape == (8, 1)
    assert result.rejected["a normalisation runs over the units"] >= 1


def test_only_the_sites_asked_for() -> None:
    model = network(CONVS)
    _zero(model, "w2", 1, [0])
    _zero(model, "w4", 1, [0])

    result = RemoveDeadUnits().run(model, FactCache(model), frozenset({"w3:0"}))

    assert result.sites == ("w3:0",)
    assert stored(model, "w1").shape[0] == 8
