"""Every operator that ONNX Runtime's own tools can quantize, behind a convolution, through quantize-8bit.

What 8 bits promise: a product is off by what half a step of its operands can do, and whatever is stored in 8
bits by half a step more. Operators that stay in float add nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.edit import constant_array
from adapass.graph.extract import extract
from adapass.graph.load import load_model
from adapass.graph.save import save_model, to_bytes
from adapass.graph.text import parse
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.rescaling.migrate import Migrate
from adapass.passes.quantize.sites import Setting
from tests.passes.rows import Rows, literal, weight

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
STEP = Quantize8bit(
    min_matmul_elements=8, min_conv_elements=8, ranges=RangeMethod.MIN_MAX, migrate=Migrate.NEVER
)
ROUNDING = 2e-5
IN_8_BITS = {
    "Add": "v = Add(c, d)",
    "AveragePool": "v = AveragePool<kernel_shape = [2, 2]>(c)",
    "Clip": "v = Clip(c, low, high)",
    "Concat": "v = Concat<axis = 1>(c, d)",
    "Flatten": "v = Flatten(c)",
    "GlobalAveragePool": "v = GlobalAveragePool(c)",
    "LeakyRelu": "v = LeakyRelu<alpha = 0.2>(c)",
    "MaxPool": "v = MaxPool<kernel_shape = [2, 2]>(c)",
    "Mul": "v = Mul(c, d)",
    "Pad": "v = Pad(c, pads)",
    "Relu": "v = Relu(c)",
    "Reshape": "v = Reshape(c, target)",
    "Sigmoid": "v = Sigmoid(c)",
    "Slice": "v = Slice(c, one, two, two)",
    "Squeeze": "u = Unsqueeze(c, one)\nv = Squeeze(u, one)",
    "Transpose": "v = Transpose<perm = [0, 2, 3, 1]>(c)",
    "Unsqueeze": "v = Unsqueeze(c, one)",
}
"""Operators that go on in 8 bits between a quantized convolution and one that reads 8 bits."""
IN_FLOAT = {
    "ArgMax": "a = ArgMax<axis = 1>(c)\nv = Cast<to = 1>(a)",
    "BatchNormalization": "v = BatchNormalization(c, each, other, other, positive)",
    "CumSum": "v = CumSum(c, axis)",
    "Gather": "v = Gather<axis = 1>(c, places)",
    "GatherElements": "v = GatherElements<axis = 1>(c, elements)",
    "InstanceNormalization": "v = InstanceNormalization(c, each, other)",
    "LayerNormalization": "v = LayerNormalization(c, last)",
    "Resize": 'v = Resize<mode = "linear">(c, , scales)',
    "Softmax": "v = Softmax<axis = 1>(c)",
    "Split": "v, rest = Split<axis = 1, num_outputs = 2>(c)",
    "TopK": "v, i = TopK<axis = 1>(c, two)",
    "Where": "m = Greater(x1, zero)\nv = Where(m, c, d)",
}
"""Those that read and write floats. ONNX Runtime has kernels on bytes for some, none of them is a product."""
PRODUCTS = {"Conv", "Gemm", "MatMul"}
REFUSED = {
    "Attention": "Attention has no 8-bit form that adapass writes",
    "ConvTranspose": "ConvTranspose has no 8-bit kernel in ONNX Runtime",
    "EmbedLayerNormalization": "EmbedLayerNormalization has no 8-bit form that adapass writes",
    "LSTM": "LSTM has no 8-bit form that adapass writes",
}


def registered() -> set[str]:
    """Operators in ONNX Runtime's own tables."""
    tables: Any = import_module("onnxruntime.quantization.registry")
    names = ("IntegerOpsRegistry", "QLinearOpsRegistry", "QDQRegistry")
    return {operator for name in names for operator in getattr(tables, name)}


def test_every_operator_that_onnx_runtime_quantizes_is_tried_here() -> None:
    assert registered() == {*IN_8_BITS, *IN_FLOAT, *PRODUCTS, *REFUSED}


def behind_a_convolution(operator: str) -> ir.Model:
    body = {**IN_8_BITS, **IN_FLOAT}[operator]
    sizes = {"Flatten": "N, P", "Reshape": "N, P, Q", "Unsqueeze": "N, O, P, Q, R"}.get(
        operator, "N, P, Q, R"
    )
    return parse(
        f"""
        {HEADER}
        g (float[N, 4, 6, 6] x) => (float[{sizes}] y)
        <float[8, 4, 1, 1] w = {literal(weight(1, 8, 4, 1, 1))}, float[8] b = {literal(weight(2, 8))},
         float[8, 4, 1, 1] w2 = {literal(weight(3, 8, 4, 1, 1))}, float low = {{-0.5}}, float high = {{0.75}},
         int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, int64[3] target = {{0, 8, 36}}, int64[1] one = {{1}},
         int64[1] two = {{3}}, int64 axis = {{1}}, int64[3] places = {{5, 0, 2}}, float zero = {{0.0}},
         int64[1, 1, 6, 6] elements = {{{", ".join(str(i % 8) for i in range(36))}}},
         float[8] each = {literal(weight(4, 8))}, float[8] other = {literal(weight(5, 8))},
         float[8] positive = {literal(np.abs(weight(6, 8)) + 0.5)}, float[6] last = {literal(weight(7, 6))},
         float[4] scales = {{1.0, 1.0, 2.0, 2.0}}, int64[1] channel = {{0}}, int64[1] first = {{1}}>
        {{
            x1 = Slice(x, channel, first, one)
            c = Conv(x, w, b)
            d = Conv(x, w2)
            {body}
            y = LeakyRelu<alpha = 0.5>(v)
        }}
        """
    )


@dataclass(frozen=True, slots=True)
class Result:
    """A quantized model, what it was, and all values of both on one batch."""

    model: ir.Model
    exact: Mapping[str, Floats]
    found: Mapping[str, Floats]

    def scale(self, name: str) -> float:
        """Step of an activation; 0 where it is not stored in 8 bits."""
        value = self.model.graph.initializers.get(f"{name}_scale")
        array = constant_array(value)
        return 0.0 if array is None else float(array.max())

    def promise(self, name: str, array: Array) -> Doubles:
        """Half a step, and what lies beyond the range; 0 for a value that is not stored in 8 bits."""
        step = self.scale(name)
        if step == 0.0:
            return np.zeros(array.shape)
        zero = constant_array(self.model.graph.initializers[f"{name}_zero_point"])
        assert zero is not None
        low, high = -float(zero.max()) * step, (255.0 - float(zero.max())) * step
        wide = array.astype(np.float64)
        return step / 2 + np.maximum(wide - high, 0.0) + np.maximum(low - wide, 0.0)


def quantized(model: ir.Model, inputs: Mapping[str, Array], step: Quantize8bit = STEP) -> Result:
    result = model.clone()
    step.run(result, FactCache(result))
    step.fit(result, Rows(inputs))
    check_structure(result)
    return Result(result, values(model, inputs), values(result, inputs))


def values(model: ir.Model, inputs: Mapping[str, Array]) -> Mapping[str, Floats]:
    names = [v.name or "" for node in model.graph for v in node.outputs if v.name]
    return floats({**inputs, **Session(model, outputs=names).run(inputs)})


def floats(arrays: Mapping[str, Array]) -> Mapping[str, Floats]:
    return {name: array.astype(np.float32) for name, array in arrays.items() if array.dtype.kind == "f"}


IMAGES = {"x": weight(11, 6, 4, 6, 6)}
VECTORS = {"x": weight(12, 24, 16)}


def assert_convolution_keeps_its_promise(result: Result, name: str, stored: str) -> None:
    """``name`` is off by at most half a step of what it reads and of its weight, summed up."""
    near, step_x = result.found["x_restored"].astype(np.float64), result.scale("x") / 2
    kernel, steps = (
        constant_array(result.model.graph.initializers[f"{name}_weight"]),
        weight_steps(result, name),
    )
    assert kernel is not None
    magnitude = np.abs(kernel.astype(np.float64).reshape(8, 4)) * steps[:, None]
    exact = np.abs(constant(stored)).reshape(8, 4)
    from_x = step_x * np.maximum(magnitude, exact).sum(axis=1)
    from_w = np.einsum("o,nchw->nohw", steps / 2, np.abs(near))
    bias = result.scale("x") * steps  # the bias is rounded to whole products of the two steps
    bound = from_w + (from_x + bias)[None, :, None, None] + ROUNDING
    error = np.abs(result.found[name].astype(np.float64) - result.exact[name])
    assert (error <= bound).all()
    assert error.max() > 0.05 * bound.max(), "the bound says something"


def constant(name: str) -> Doubles:
    array = constant_array(behind_a_convolution("Add").graph.initializers[name])
    assert array is not None
    return array.astype(np.float64)


def weight_steps(result: Result, name: str) -> Doubles:
    array = constant_array(result.model.graph.initializers[f"{name}_weight_scale"])
    assert array is not None
    return array.astype(np.float64)


@pytest.mark.parametrize("operator", [*IN_8_BITS, *IN_FLOAT])
def test_behind_a_convolution_the_error_is_what_the_format_promises(operator: str) -> None:
    model = behind_a_convolution(operator)
    result = quantized(model, IMAGES)

    if "c" in result.found:
        assert_convolution_keeps_its_promise(result, "c", "w")
    read = {
        name: result.found.get(f"{name}_restored", result.found.get(name))
        for name in ("c", "d", "x1")
        if any(use.node.op_type != "Conv" for value in named(model, name) for use in value.uses())
    }
    behind = extract(model, list(read), ["v", "y"])
    given = {name: array for name, array in read.items() if array is not None}
    expected = floats(Session(behind, outputs=["v", "y"]).run(given))
    bound = result.promise("v", expected["v"]) + result.promise("y", expected["y"])

    assert (np.abs(result.found["y"].astype(np.float64) - expected["y"]) <= bound + ROUNDING).all()
    assert (result.scale("y") > 0.0) == (operator in IN_8_BITS)


def named(model: ir.Model, name: str) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs if value.name == name]


@pytest.mark.parametrize("operator", sorted(IN_8_BITS))
def test_fused_kernels_stay_within_one_step(operator: str) -> None:
    """The kernels that ONNX Runtime puts in the place of the conversions round once more."""
    result = quantized(behind_a_convolution(operator), IMAGES)

    plain, fused = (floats(Session(result.model, optimize=each).run(IMAGES))["y"] for each in (False, True))

    steps = [result.scale(name) for name in ("c", "d", "u", "v", "y")]
    assert np.abs(plain.astype(np.float64) - fused).max() <= 1.01 * sum(steps)


def product(operator: str) -> ir.Model:
    text = {"MatMul": "y = MatMul(x, w)", "Gemm": "y = Gemm(x, w, b)"}[operator]
    return parse(
        f"""
        {HEADER}
        g (float[N, 16] x) => (float[N, 8] y)
        <float[16, 8] w = {literal(weight(1, 16, 8))}, float[8] b = {literal(weight(2, 8))}>
        {{ {text} }}
        """
    )


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("setting", list(Setting))
@pytest.mark.parametrize("optimize", [False, True])
def test_a_product_is_off_by_half_a_step_of_each_operand(
    operator: str, setting: Setting, optimize: bool
) -> None:
    model = product(operator)
    step = Quantize8bit(
        min_matmul_elements=8, settings=(setting,), ranges=RangeMethod.MIN_MAX, migrate=Migrate.NEVER
    )
    result = quantized(model, VECTORS, step)
    stored = constant_array(model.graph.initializers["w"])
    assert stored is not None
    x, w, steps = VECTORS["x"].astype(np.float64), stored.astype(np.float64), weight_steps(result, "y")
    step_x = (max(x.max(), 0.0) - min(x.min(), 0.0)) / 255

    found = floats(Session(result.model, optimize=optimize).run(VECTORS))["y"]

    # the zero point is rounded as well, so that a clipped end may be off by a whole step
    bound = step_x * (np.abs(w) + steps / 2).sum(axis=0) + np.abs(x).sum(axis=1)[:, None] * steps / 2
    error = np.abs(found - result.exact["y"])
    assert (error <= bound + step_x * steps + ROUNDING).all()
    assert 0.05 * bound.max() < error.max() < bound.max()


@pytest.mark.parametrize("operator", sorted(REFUSED))
def test_a_refused_operator_says_why_and_stays_as_it_is(operator: str) -> None:
    model = refused_model(operator)
    before = to_bytes(model)

    proposal = STEP.propose(model, FactCache(model))

    assert [(r.site, r.reason) for r in proposal.refusals] == [("y", REFUSED[operator])]
    assert not STEP.run(model, FactCache(model)).changed
    assert to_bytes(model) == before


def refused_model(operator: str) -> ir.Model:
    big = literal(weight(1, 8, 4, 3, 3))
    texts = {
        "ConvTranspose": f"""g (float[N, 8, 6, 6] x) => (float[N, 4, 8, 8] y) <float[8, 4, 3, 3] w = {big}>
            {{ y = ConvTranspose(x, w) }}""",
        "LSTM": f"""g (float[T, N, 8] x) => (float[T, 1, N, 4] y)
            <float[1, 16, 8] w = {literal(weight(1, 1, 16, 8))},
             float[1, 16, 4] r = {literal(weight(2, 1, 16, 4))}>
            {{ y = LSTM<hidden_size = 4>(x, w, r) }}""",
        "Attention": f"""g (float[N, T, 8] x) => (float[N, T, 8] y)
            <float[8, 24] w = {literal(weight(1, 8, 24))}, float[24] b = {literal(weight(2, 24))}>
            {{ y = com.microsoft.Attention<num_heads = 2>(x, w, b) }}""",
        "EmbedLayerNormalization": f"""g (int32[N, T] x) => (float[N, T, 8] y)
            <float[16, 8] w = {literal(weight(1, 16, 8))}, float[16, 8] p = {literal(weight(2, 16, 8))},
             float[8] s = {literal(weight(3, 8))}, float[8] b = {literal(weight(4, 8))}>
            {{ y, m = com.microsoft.EmbedLayerNormalization(x, , w, p, , s, b) }}""",
    }
    return parse(f"{HEADER}\n{texts[operator]}")


@pytest.mark.parametrize("operator", sorted(IN_8_BITS))
def test_stored_and_loaded_it_computes_the_same(operator: str, tmp_path: Any) -> None:
    result = quantized(behind_a_convolution(operator), IMAGES)
    save_model(result.model, tmp_path / "model.onnx")

    again = Session(load_model(tmp_path / "model.onnx")).run(IMAGES)["y"]

    np.testing.assert_array_equal(again, result.found["y"])
