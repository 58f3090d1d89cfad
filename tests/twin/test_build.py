"""build_twin: text in, the numbers of ONNX Runtime out; dynamic shapes, control flow, functions, halves."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.graph.text import parse

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.twin.build import build_twin  # noqa: E402

HEADS = """
    <ir_version: 8, opset_import: ["": 17]>
    heads (float[B, T, 8] x) => (float[B, H, T, D] y)
    <float[8, 8] weight = {%s}, int64[2] split = {2, 4}, int64[1] two = {2}, float half = {0.5}> {
        p = MatMul(x, weight)
        s = Shape(p)
        zero = Constant<value_ints = [0]>()
        first = Slice(s, zero, two)
        target = Concat<axis = 0>(first, split)
        r = Reshape(p, target)
        t = Transpose<perm = [0, 2, 1, 3]>(r)
        y = Mul(t, half)
    }
""" % ", ".join(str(round(0.37 * (i % 11) - 1.5, 3)) for i in range(64))  # noqa: UP031  (braces)
CONTROL = """
    <ir_version: 8, opset_import: ["": 17]>
    control (float[N] x, int64 rounds) => (float[N] y, float[R, N] seen)
    <float[1] step = {0.5}, float[1] bound = {2.0}> {
        total = ReduceSum<keepdims = 0>(x)
        none = Constant<value_float = 0.0>()
        positive = Greater(total, none)
        start = If (positive) <
            then_branch = yes () => (float[N] a) { a = Mul(x, step) },
            else_branch = no () => (float[N] b) { doubled = Add(x, x) b = Sub(doubled, step) }
        >
        going = Constant<value = bool {1}>()
        y, seen = Loop (rounds, going, start) <
            body = body (int64 i, bool c, float[N] v) => (bool still, float[N] next, float[N] out) {
                next = Mul(v, bound)
                out = Add(next, step)
                still = Identity(c)
            }
        >
    }
"""

FUNCTION = """
    <ir_version: 8, opset_import: ["": 17, "adapass": 1]>
    calls (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1.0, -2.0, 3.0}> {
        h = adapass.scaled<amount = 2.0>(x, w)
        y = adapass.scaled<amount = 3.0>(h, w)
    }
    <domain: "adapass", opset_import: ["": 17]>
    scaled <amount> (a, b) => (c) {
        k = Constant<value_float: float = @amount>()
        m = Mul(a, b)
        c = Mul(m, k)
    }
"""

HALF = """
    <ir_version: 8, opset_import: ["": 17]>
    half (float[N, 2] x) => (float[N, 2] y)
    <float16[2, 2] w = {11878, 12902, 13517, 13926}, float16[2] b = {15360, 16384}> {
        wide = Cast<to = 1>(w)
        p = MatMul(x, wide)
        n = Cast<to = 10>(p)
        q = Add(n, b)
        y = Cast<to = 1>(q)
    }
"""


def close(found: Any, wanted: Any, rtol: float = 1e-7, atol: float = 0.0) -> None:
    """Arrays of any type: the annotations of NumPy's own function take numbers only."""
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def same(text: str, *feeds: dict[str, Any], bound: float = 1e-5) -> None:
    model = parse(text)
    twin, session = build_twin(model), Session(model)
    for feed in feeds:
        found, expected = twin.run(feed), session.run(feed)
        assert list(found) == list(expected)
        for name, wanted in expected.items():
            assert found[name].shape == wanted.shape
            close(found[name], wanted, rtol=bound, atol=bound)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_shapes_that_are_computed_stay_dynamic() -> None:
    same(HEADS, {"x": numbers(2, 3, 8)}, {"x": numbers(1, 7, 8)})


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["then-branch", "else-branch"])
def test_branches_and_loops_run_as_the_data_says(sign: float) -> None:
    x = sign * np.abs(numbers(4))
    same(CONTROL, {"x": x, "rounds": np.array(3)}, {"x": x[:2], "rounds": np.array(1)})


def test_weights_that_branches_read_have_gradients() -> None:
    twin = build_twin(parse(CONTROL))

    twin.compute({"x": np.ones(2, np.float32), "rounds": np.array(1)})["y"].sum().backward()

    # Vectors of one element are weights; y = x * step * bound.
    assert twin.parameter("step").grad.tolist() == [4.0]
    assert twin.parameter("bound").grad.tolist() == [1.0]


def test_functions_of_the_model_are_inlined() -> None:
    same(FUNCTION, {"x": numbers(2, 3)})


def test_weights_stored_in_half_precision() -> None:
    same(HALF, {"x": numbers(3, 2)}, bound=1e-3)


def test_half_weights_have_gradients_of_single_precision() -> None:
    twin = build_twin(parse(HALF), outputs=["p"])

    # A gradient of 1e-9 would be 0 in half precision.
    (1e-9 * twin.compute({"x": np.ones((1, 2), np.float32)})["p"]).sum().backward()

    assert twin.parameter("w").dtype == torch.float32
    close(twin.parameter("w").grad, np.full((2, 2), 1e-9), rtol=1e-6)


def test_weights_are_parameters_and_the_rest_are_buffers() -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2, 4] x) => (float[N, 2, 4] y)
        <float[2] scale = {1, 2}, float[2] bias = {3, 4}, float[2] mean = {0, 0}, float[2] var = {1, 1},
         float[4] mask = {-3.4e38, 0, 0, 0}, float eps = {0.1}> {
            n = BatchNormalization(x, scale, bias, mean, var)
            m = Add(n, mask)
            y = Mul(m, eps)
        }
        """
    )

    twin = build_twin(model)

    assert sorted(twin.weights) == ["bias", "scale"]
    assert len(list(twin.module.parameters())) == 2
    assert len(list(twin.module.buffers())) == 4


def test_names_that_torch_cannot_take_are_mapped() -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) <float[2] w1 = {1, 2}, float[2] w2 = {3, 4}> {
            p = Mul(x, w1)
            y = Add(p, w2)
        }
        """
    )
    for old, new in (("w1", "layer.0/weight"), ("w2", "layer_0_weight")):
        model.graph.initializers[old].name = new

    twin = build_twin(model)

    assert twin.weights == {"layer.0/weight": "w_layer_0_weight", "layer_0_weight": "w_layer_0_weight_2"}
    assert twin.parameter("layer_0_weight").tolist() == [3.0, 4.0]


def test_names_of_inputs_are_never_run_as_code() -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2] x, float[N, 2] z) => (float[N, 2] y) { p = Add(x, z) y = Relu(p) }
        """
    )
    evil = "x=__import__('sys').exit('ran')"
    names = {"x": evil, "z": "data/0\n", "p": "p): import os"}
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        value.name = names.get(value.name or "", value.name)

    found = build_twin(model).run({evil: numbers(1, 2), "data/0\n": numbers(1, 2)})

    close(found["y"], np.maximum(2 * numbers(1, 2), 0))


def test_training_never_writes_into_the_model() -> None:
    model = parse(HEADS)
    before = model.graph.initializers["weight"].const_value.numpy().copy()  # type: ignore[union-attr]
    twin = build_twin(model)

    with torch.no_grad():
        twin.parameter("weight").add_(1.0)

    np.testing.assert_array_equal(model.graph.initializers["weight"].const_value.numpy(), before)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("y = NonMaxSuppression(x, x)", "operator 'NonMaxSuppression'", id="unknown-operator"),
        pytest.param("y = com.example.Thing(x)", "operator 'com.example::Thing'", id="unknown-domain"),
        pytest.param(
            "all, y = RNN<hidden_size = 2, clip = 1.0>(x, x, x)",
            "the attribute 'clip'",
            id="unknown-attribute",
        ),
    ],
)
def test_names_operator_and_node_that_have_no_twin(body: str, message: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "com.example": 1]>
        g (float[N, 2, 2] x) => (float[N, 2, 2] y) {{ {body} }}
    """
    with pytest.raises(ModelError, match=message) as caught:
        build_twin(parse(text))

    assert "node '" in str(caught.value)


FOUR_BITS = """
    <ir_version: 10, opset_import: ["": 21]>
    g (float[N, 2] x) => (float[N, 2] y) <int4[2] w = {3, -8}, float scale = {0.5}, int4 zero = {1}> {
        wide = DequantizeLinear(w, scale, zero)
        y = Mul(x, wide)
    }
"""


def test_weights_of_four_bits_are_read() -> None:
    model = parse(FOUR_BITS)
    for name, values in (("w", [3, -8]), ("zero", 1)):
        model.graph.initializers[name].const_value = ir.tensor(np.array(values, ml_dtypes.int4), name=name)
    x = numbers(3, 2)

    found: Any = build_twin(model).run({"x": x})["y"]

    close(found, x * [1.0, -4.5], rtol=1e-6)
    close(found, Session(model).run({"x": x})["y"], rtol=1e-6)


def test_rounding_to_four_bits_is_refused() -> None:
    rounding = "q = QuantizeLinear(x, scale, zero) y = DequantizeLinear(q, scale, zero)"
    text = FOUR_BITS.replace("wide = DequantizeLinear(w, scale, zero)", "").replace(
        "y = Mul(x, wide)", rounding
    )
    with pytest.raises(ModelError, match="of type INT4, which torch cannot hold"):
        build_twin(parse(text))


def test_any_value_can_be_an_output() -> None:
    twin = build_twin(parse(HEADS), outputs=["t", "y"])

    found: Any = twin.run({"x": numbers(1, 2, 8)})

    close(found["t"] * 0.5, found["y"])


def test_refuses_unknown_outputs_and_missing_inputs() -> None:
    with pytest.raises(UsageError, match="no value 'z'"):
        build_twin(parse(HEADS), outputs=["z"])
    with pytest.raises(DataError, match="input 'x' is missing"):
        build_twin(parse(HEADS)).run({})


def test_says_on_what_it_could_not_compute() -> None:
    with pytest.raises(ModelError, match=r"cannot compute on x\[2, 3, 5\]"):
        build_twin(parse(HEADS)).run({"x": numbers(2, 3, 5)})


def test_importing_adapass_does_not_import_torch() -> None:
    code = "import sys, adapass, adapass.twin, adapass.healing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_says_how_to_get_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import adapass.twin.build"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "UsageError" in done.stderr
    assert "pip install adapass[torch]" in done.stderr
