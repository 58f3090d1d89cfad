"""Edits keep a graph well formed: names, outputs, subgraphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.graph.check import check_structure
from adapass.graph.edit import (
    apply_replacement,
    constant_array,
    fresh_name,
    insert_after,
    insert_before,
    mark_roots,
    new_constant,
    new_initializer,
    nodes_everywhere,
    remove_dead_nodes,
    remove_if_dead,
    replace_uses,
)
from adapass.graph.text import parse, to_text
from adapass.rewrite import Replacement

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
BRANCHES = """g (bool c, float[2] x) => (float[2] y) { r = Relu(x)
  y = If (c) <then_branch = t () => (float[2] a) { n = Neg(r) a = Exp(n) },
              else_branch = e () => (float[2] b) { b = Exp(x) }> }"""


def _model(body: str) -> ir.Model:
    return parse(HEADER + body)


def _same(model: ir.Model, body: str) -> None:
    check_structure(model)
    assert to_text(model) == to_text(_model(body))


def test_a_replacement_takes_over_the_name() -> None:
    model = _model("g (float[2] x) => (float[2] y) { h = Relu(x) y = Exp(h) }")
    root = model.graph[0]
    first = ir.Node("", "Neg", [root.inputs[0]], num_outputs=1)
    second = ir.Node("", "Abs", first.outputs, num_outputs=1)

    apply_replacement(root, Replacement(nodes=[first, second], outputs=second.outputs))

    _same(model, "g (float[2] x) => (float[2] y) { h_1 = Neg(x) h = Abs(h_1) y = Exp(h) }")


def test_a_replacement_keeps_the_name_of_an_output() -> None:
    model = _model("g (float[2] x) => (float[2] y) { h = Relu(x) y = Exp(h) }")
    root = model.graph[1]
    node = ir.Node("", "Tanh", [root.inputs[0]], num_outputs=1)

    apply_replacement(root, Replacement(nodes=[node], outputs=node.outputs))

    _same(model, "g (float[2] x) => (float[2] y) { h = Relu(x) y = Tanh(h) }")


def test_a_replacement_removes_what_only_the_root_needed() -> None:
    model = _model("g (float[2] x) => (float[2] y) { h = Relu(x) k = Neg(h) y = Exp(k) }")
    root = model.graph[1]
    node = ir.Node("", "Tanh", [model.graph.inputs[0]], num_outputs=1)

    apply_replacement(root, Replacement(nodes=[node], outputs=node.outputs))

    _same(model, "g (float[2] x) => (float[2] y) { k = Tanh(x) y = Exp(k) }")


def test_constants_of_a_replacement_get_fresh_names() -> None:
    model = _model("g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { h = Add(x, c) y = Exp(h) }")
    mark_roots(model)
    root = model.graph[0]
    constants = [new_constant("c", np.full(2, n, np.float32)) for n in (3, 4)]
    first = ir.Node("", "Add", [root.inputs[0], constants[0]], num_outputs=1)
    second = ir.Node("", "Mul", [first.outputs[0], constants[1]], num_outputs=1)

    apply_replacement(
        root, Replacement(nodes=[first, second], outputs=second.outputs, initializers=constants)
    )
    remove_dead_nodes(model)

    _same(
        model,
        """g (float[2] x) => (float[2] y) <float[2] c_1 = {3, 3}, float[2] c_2 = {4, 4}>
           { h_1 = Add(x, c_1) h = Mul(h_1, c_2) y = Exp(h) }""",
    )


def test_functions_get_constant_nodes_instead_of_initializers() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 20, "f" : 1]> g (float[2] x) => (float[2] y) { y = f.one(x) }
           <domain: "f", opset_import: ["" : 20]> one (a) => (b) { h = Relu(a) b = Exp(h) }"""
    )
    root = next(node for node in nodes_everywhere(model) if node.op_type == "Relu")
    graph = root.graph
    assert graph is not None
    constant = new_constant("c", np.ones(2, np.float32))
    node = ir.Node("", "Add", [root.inputs[0], constant], num_outputs=1)

    apply_replacement(root, Replacement(nodes=[node], outputs=node.outputs, initializers=[constant]))

    check_structure(model)
    assert "c = Constant <value: tensor = float[2] {1,1}> ()" in to_text(model)


@pytest.mark.parametrize(
    ("target", "after"),
    [
        pytest.param("h", "{ y = Relu(x) }", id="a-value-takes-the-name"),
        pytest.param("x", "{ y = Identity(x) }", id="an-input-keeps-its-own"),
    ],
)
def test_outputs_keep_their_names(target: str, after: str) -> None:
    model = _model("g (float[2] x) => (float[2] y) { h = Relu(x) y = Neg(h) }")
    values = ir.convenience.create_value_mapping(model.graph)

    replace_uses(values["y"], values[target])
    remove_dead_nodes(model)

    _same(model, f"g (float[2] x) => (float[2] y) {after}")


def test_one_value_can_serve_two_outputs() -> None:
    model = _model("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Neg(x) }")
    values = ir.convenience.create_value_mapping(model.graph)

    replace_uses(values["z"], values["y"])
    remove_dead_nodes(model)

    _same(model, "g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }")


def test_readers_inside_branches_follow() -> None:
    model = _model(BRANCHES)
    values = ir.convenience.create_value_mapping(model.graph)

    replace_uses(values["r"], values["x"])
    remove_dead_nodes(model)

    _same(
        model,
        """g (bool c, float[2] x) => (float[2] y) {
             y = If (c) <then_branch = t () => (float[2] a) { n = Neg(x) a = Exp(n) },
                         else_branch = e () => (float[2] b) { b = Exp(x) }> }""",
    )


def test_removing_a_branch_frees_what_it_read() -> None:
    model = _model(BRANCHES)
    branch = next(node for node in model.graph if node.op_type == "If")
    node = ir.Node("", "Abs", [model.graph.inputs[1]], num_outputs=1)

    apply_replacement(branch, Replacement(nodes=[node], outputs=node.outputs))
    remove_dead_nodes(model)

    _same(model, "g (bool c, float[2] x) => (float[2] y) { y = Abs(x) }")


def test_nodes_come_in_execution_order_with_those_inside_first() -> None:
    model = _model(BRANCHES)

    assert [node.op_type for node in nodes_everywhere(model)] == ["Relu", "Neg", "Exp", "Exp", "If"]


def test_names_are_fresh_against_everything_around_and_below() -> None:
    model = _model(BRANCHES)
    mark_roots(model)
    inner = next(node for node in nodes_everywhere(model) if node.op_type == "Neg").graph
    assert inner is not None

    assert fresh_name(inner, "r") == "r_1"
    assert fresh_name(model.graph, "n") == "n_1"
    assert fresh_name(inner, "free") == "free"


def test_inserts_around_a_node() -> None:
    model = _model("g (float[2] x) => (float[2] y) { h = Relu(x) y = Neg(h) }")
    root = model.graph[0]
    before = ir.Node("", "Abs", [root.inputs[0]], num_outputs=1)
    after = ir.Node("", "Exp", [root.outputs[0]], num_outputs=1)

    insert_before(root, [before])
    insert_after(root, [after])

    _same(
        model,
        "g (float[2] x) => (float[2] y) { h_1 = Abs(x) h = Relu(x) h_2 = Exp(h) y = Neg(h) }",
    )


def test_dead_nodes_are_removed_upwards_only_when_nobody_else_reads() -> None:
    model = _model("g (float[2] x) => (float[2] y) { a = Relu(x) b = Neg(a) c = Exp(b) y = Abs(a) }")

    remove_if_dead(model.graph[2])

    _same(model, "g (float[2] x) => (float[2] y) { a = Relu(x) y = Abs(a) }")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("w", [1.0, 2.0], id="initializer"),
        pytest.param("c", [3.0], id="constant-node"),
        pytest.param("d", None, id="initializer-that-is-an-input"),
        pytest.param("x", None, id="input"),
        pytest.param("h", None, id="computed"),
    ],
)
def test_constant_array(name: str, expected: list[float] | None) -> None:
    model = _model(
        """g (float[2] x, float[2] d) => (float[2] y) <float[2] w = {1, 2}, float[2] d = {5, 6}>
           { c = Constant<value_floats = [3.0]>() h = Add(x, w) k = Mul(h, c) y = Add(k, d) }"""
    )
    array = constant_array(ir.convenience.create_value_mapping(model.graph)[name])

    assert (None if array is None else array.tolist()) == expected


def test_constant_array_of_nothing() -> None:
    assert constant_array(None) is None


def test_a_new_initializer_is_stored() -> None:
    model = _model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")

    value = new_initializer(model.graph, "w", np.zeros(2, np.float32))

    assert value.name == "w_1"
    assert model.graph.initializers["w_1"] is value
