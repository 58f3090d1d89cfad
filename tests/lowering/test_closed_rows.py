"""Rows that are numbered, taken and put back within a part may be numbered anew when samples leave."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapass.graph.text import parse
from adapass.lowering.closed_rows import ClosedRows
from adapass.lowering.exits import prepare
from adapass.lowering.rows import Kind, classify
from adapass.ops import GATHER_ROWS, LIVE_ROWS, SCATTER_ROWS, add_function

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (float[B,T,3] x, float[B,T] score) => (float[B,T,3] y, {more})
<float zero = {{0}}, int64[1] all = {{-1}}, int64[2] flat_dims = {{-1, 3}},
 int64[1] first = {{0}}, int64[1] last = {{1}}>
{{
    live = Greater(score, zero)
    flat_live = Reshape(live, all)
    index = NonZero(flat_live)
    rows = Squeeze(index, first)
    flat = Reshape(x, flat_dims)
    some = Gather(flat, rows)
    done = Relu(some)
    place = Unsqueeze(rows, last)
    put = ScatterND(flat, place, done)
    dims = Shape(x)
    y = Reshape(put, dims)
    {end}
}}"""
CLOSED = TEXT.format(more="float[B,T,3] z", end="z = Relu(y)")


def results(nodes: frozenset[ir.Node]) -> set[str]:
    return {node.outputs[0].name or "" for node in nodes}


def test_finds_what_is_inside() -> None:
    found = ClosedRows.of(parse(CLOSED).graph)

    assert results(found.inside) == {"index", "rows", "some", "done", "place"}
    assert results(found.ends) == {"put"}


@pytest.mark.parametrize(
    ("more", "end"),
    [
        pytest.param("float[n,3] z", "z = Relu(done)", id="rows-are-returned"),
        pytest.param("int64[n] z", "z = Identity(rows)", id="numbers-are-returned"),
        pytest.param(
            "float[B,T,3] z", "w = ScatterND(done, place, done)\n z = Relu(w)", id="put-into-taken-rows"
        ),
    ],
)
def test_what_is_read_from_outside_is_not_closed(more: str, end: str) -> None:
    assert not ClosedRows.of(parse(TEXT.format(more=more, end=end)).graph).inside


@pytest.mark.parametrize(
    "done",
    [
        pytest.param("mean = ReduceMean(some, first)\n done = Sub(some, mean)", id="mean-of-rows"),
        pytest.param("done = Softmax<axis = 0>(some)", id="softmax-over-rows"),
        pytest.param(
            "turned = Transpose(some)\n gram = MatMul(turned, some)\n done = MatMul(some, gram)", id="product"
        ),
        pytest.param("done = CumSum(some, zero_int)", id="running-sum"),
    ],
)
def test_rows_that_see_each_other_are_not_closed(done: str) -> None:
    text = CLOSED.replace("done = Relu(some)", done).replace(
        "<float zero", "<int64 zero_int = {0}, float zero"
    )

    assert not ClosedRows.of(parse(text).graph).inside


def test_what_is_reduced_within_a_row_is_closed() -> None:
    done = "mean = ReduceMean(some, last)\n done = Sub(some, mean)"

    assert ClosedRows.of(parse(CLOSED.replace("done = Relu(some)", done)).graph).inside


def test_numbers_alone_are_no_part() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[B,3] x) => (int64[2,n] y) { y = NonZero(x) }"""

    assert ClosedRows.of(parse(text).graph) == ClosedRows(frozenset(), frozenset())


@pytest.mark.parametrize("least", [-1e9, 1e9], ids=["all-rows", "no-rows"])
def test_what_is_put_back_has_one_entry_a_sample(least: float) -> None:
    """Also where no row is taken of the feeds that shapes are read from."""
    text = f"""<ir_version: 8, opset_import: ["" : 18, "adapass" : 1]>
    g (float[B,T,3] x, float[B,T] score) => (float[B,T,3] y) <float least = {{{least}}}> {{
        live = Greater(score, least)
        rows = adapass.LiveRows(live)
        some = adapass.GatherRows(x, rows)
        done = Relu(some)
        put = adapass.ScatterRows(x, rows, done)
        y = Relu(put)
    }}"""
    model = ir.from_onnx_text(text)
    for name in (LIVE_ROWS, GATHER_ROWS, SCATTER_ROWS):
        add_function(model, name)
    ready = prepare(model, keep_selects=True)

    rows = classify(ready)

    kinds = {value.name: rows.kind(value) for node in ready.graph for value in node.outputs}
    assert kinds["put"] is kinds["y"] is Kind.ROWS
    assert kinds["some"] is kinds["done"] is Kind.LOCAL
    assert not rows.mixing
