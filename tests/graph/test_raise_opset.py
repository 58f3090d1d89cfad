"""Raising the opset: only where every operator goes on meaning what it means."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.graph.raise_opset import SETTLED, obstacle, raise_opset
from adapass.graph.text import parse

checker: Any = import_module("onnx.checker")


def model(body: str, opset: int, *, constants: str = "") -> ir.Model:
    return parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"m (float[2, 4, 6] x) => (float[A, B, C] y) <{constants}> {{ {body} }}"
    )


@pytest.mark.parametrize(
    ("body", "opset", "wanted", "in_the_way"),
    [
        pytest.param("y = Relu(x)", 13, 21, None, id="types-only"),
        pytest.param("y = ReduceMean<axes = [1]>(x)", 17, 21, "ReduceMean", id="attribute-became-an-input"),
        pytest.param("y = ReduceMean(x)", 18, 25, None, id="input-all-along"),
        pytest.param("y = Relu(x)", 12, 21, "opset 12", id="too-old"),
        pytest.param("a, y = Split<axis = 2>(x)", 13, 21, "Split", id="settled-later"),
        pytest.param("a, y = Split<axis = 2, num_outputs = 2>(x)", 18, 21, None, id="settled"),
        pytest.param("y = Nonsense(x)", 20, 21, "Nonsense", id="unknown"),
        pytest.param("y = ReduceMean<axes = [1]>(x)", 17, 17, None, id="nothing-to-raise"),
    ],
)
def test_names_the_first_operator_in_the_way(
    body: str, opset: int, wanted: int, in_the_way: str | None
) -> None:
    if in_the_way == "Nonsense":
        found = ir.Model(
            ir.Graph([], [], nodes=[ir.node("Nonsense", [])], opset_imports={"": opset}), ir_version=8
        )
    else:
        found = model(body, opset)

    assert obstacle(found, wanted) == in_the_way


def test_an_operator_in_a_branch_counts() -> None:
    text = (
        "c = Constant<value = bool {1}>() "
        "y = If<then_branch = g1 () => (float[A, B, C] t) { t = ReduceMax<axes = [0]>(x) }, "
        "else_branch = g2 () => (float[A, B, C] e) { e = Relu(x) }>(c)"
    )

    assert obstacle(model(text, 17), 21) == "ReduceMax"


@pytest.mark.parametrize(("opset", "ir_version"), [(21, 10), (25, 13)])
def test_the_numbers_stay(opset: int, ir_version: int) -> None:
    made = model("h = Softmax<axis = 1>(x) t = Transpose<perm = [0, 2, 1]>(h) y = Pad(t, p)", 13,
                 constants="int64[6] p = {0, 1, 0, 0, 0, 2}")  # fmt: skip
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)}
    before = Session(made).run(feeds)["y"]

    raise_opset(made, opset)

    assert made.graph.opset_imports[""] == opset
    assert made.ir_version == ir_version
    checker.check_model(ir.to_proto(made))
    np.testing.assert_array_equal(Session(made).run(feeds)["y"], before)


def test_never_lowers() -> None:
    made = model("y = Relu(x)", 22)

    raise_opset(made, 21)

    assert made.graph.opset_imports[""] == 22
    assert made.ir_version == 8


def test_refuses_to_change_what_an_operator_means() -> None:
    made = model("y = ReduceMean<axes = [1]>(x)", 17)

    with pytest.raises(ValueError, match="ReduceMean would mean something else"):
        raise_opset(made, 21)

    assert made.graph.opset_imports[""] == 17


def test_functions_are_left_alone() -> None:
    made = parse(
        '<ir_version: 8, opset_import: ["" : 18, "own" : 1]> '
        "m (float[2] x) => (float[2] y) { y = own.twice(x) } "
        '<domain: "own", opset_import: ["" : 18]> twice (a) => (b) { b = Add(a, a) }'
    )

    assert obstacle(made, 21) == "a function"


def test_settled_operators_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}

    assert set(SETTLED) <= known
