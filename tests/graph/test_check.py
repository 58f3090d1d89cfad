"""check_structure: what is not well formed is named."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from adapass.errors import VerificationError
from adapass.graph.check import check_structure
from adapass.graph.digest import digest
from adapass.graph.text import parse

TEXT = """<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,4] y)
          <float[2,4] w = {0,1,2,3,4,5,6,7}> { h = MatMul(x, w) y = Relu(h) }"""


def _two_values_of_one_name(model: ir.Model) -> None:
    node = ir.Node("", "Neg", [model.graph.inputs[0]], num_outputs=1)
    model.graph.append(node)
    node.outputs[0].name = "h"


def _wrong_order(model: ir.Model) -> None:
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)


def _foreign_value(model: ir.Model) -> None:
    model.graph[1].replace_input_with(0, ir.Value(name="stranger"))


def _wrong_shape(model: ir.Model) -> None:
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor([[1.0, 2.0]], name="w")
    value.shape = ir.Shape([1, 2])


def _unknown_operator(model: ir.Model) -> None:
    model.graph[1].op_type = "NoSuchOperator"


def _lost_output(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_two_values_of_one_name, "two values of graph 'g' are called 'h'", id="names"),
        pytest.param(
            _wrong_order, "'Relu' computing 'y' reads 'h', which nothing before it computes", id="order"
        ),
        pytest.param(
            _foreign_value, "reads 'stranger', which nothing before it computes", id="foreign-value"
        ),
        pytest.param(_wrong_shape, "not valid ONNX", id="shapes"),
        pytest.param(_unknown_operator, "NoSuchOperator", id="operator"),
        pytest.param(_lost_output, "graph output 'y' of 'g' is computed nowhere", id="output"),
    ],
)
def test_names_the_fault(damage: Callable[[ir.Model], None], reason: str) -> None:
    model = parse(TEXT)
    damage(model)

    with pytest.raises(VerificationError, match=reason):
        check_structure(model)


def test_leaves_the_model_as_it_is() -> None:
    model = parse(TEXT)
    before = digest(model)

    check_structure(model)

    assert digest(model) == before
    assert str(model.graph[0].outputs[0].shape) == "[N,4]"


def test_branches_see_the_values_around_them() -> None:
    check_structure(
        parse(
            """<ir_version: 10, opset_import: ["" : 20]> g (bool c, float[2] x) => (float[2] y) { r = Relu(x)
                 y = If (c) <then_branch = t () => (float[2] a) { a = Neg(r) },
                             else_branch = e () => (float[2] b) { b = Exp(r) }> }"""
        )
    )
