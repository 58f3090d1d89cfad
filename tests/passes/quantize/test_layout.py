"""The layouts as text, and what ONNX Runtime fuses them to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Samples
from adapass.facts import FactCache
from adapass.graph.save import to_bytes
from adapass.graph.text import parse, to_text
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.sites import Setting

ort: Any = import_module("onnxruntime")  # ships no types

STATIC = Quantize8bit(min_matmul_elements=4, min_conv_elements=4, ranges=RangeMethod.MIN_MAX)
DYNAMIC = Quantize8bit(min_matmul_elements=4, settings=(Setting.DYNAMIC,))

PRODUCT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2] x) => (float[N, 2] y)
<float[2, 2] w = {127.0, -1.0, 0.0, 2.0}>
{ y = MatMul(x, w) }
"""


def nodes(model: ir.Model) -> list[str]:
    """Every node as ``outputs = Operator(inputs)``, in order."""
    return [
        f"{', '.join(v.name or '' for v in node.outputs)} = {node.op_type}"
        f"({', '.join(v.name or '' if v is not None else '' for v in node.inputs)})"
        for node in model.graph
    ]


def run(step: Quantize8bit, model: ir.Model, data: Samples | None) -> ir.Model:
    step.run(model, FactCache(model))
    step.fit(model, data)
    return model


def test_static_product(make_samples: Callable[[Mapping[str, Array]], Samples]) -> None:
    data = make_samples({"x": np.array([[-1.0, 0.0], [254.0, 3.0]], np.float32)})

    after = run(STATIC, parse(PRODUCT), data)

    assert nodes(after) == [
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)",
        "x_restored = DequantizeLinear(x_quantized, x_scale, x_zero_point)",
        "y_weight_restored = DequantizeLinear(y_weight, y_weight_scale, y_weight_zero_point)",
        "y = MatMul(x_restored, y_weight_restored)",
    ]
    stored = {
        name: value.const_value.numpy().tolist()
        for name, value in after.graph.initializers.items()
        if value.const_value
    }
    assert stored == {
        "x_scale": 1.0,
        "x_zero_point": 1,
        "y_weight": [[127, -64], [0, 127]],
        "y_weight_scale": [1.0, pytest.approx(2 / 127)],
        "y_weight_zero_point": [0, 0],
    }
    assert "<axis: int = 1> (y_weight" in to_text(after)
    assert all(not node.metadata_props for node in after.graph)


def test_dynamic_product() -> None:
    after = run(DYNAMIC, parse(PRODUCT), None)

    assert nodes(after) == [
        "x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear(x)",
        "y_integer = MatMulInteger(x_quantized, y_weight, x_zero_point)",
        "y_unscaled = Cast(y_integer)",
        "y_scale = Mul(x_scale, y_weight_scale)",
        "y = Mul(y_unscaled, y_scale)",
    ]


def optimized(model: ir.Model, folder: Path) -> Counter[str]:
    """Operators after ONNX Runtime's own optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    proto = onnx.ModelProto.FromString((folder / "optimized.onnx").read_bytes())
    return Counter(node.op_type for node in proto.graph.node)


def test_static_products_are_fused(mlp: ir.Model, rows: Samples, tmp_path: Path) -> None:
    found = optimized(run(STATIC, mlp, rows), tmp_path)

    assert found["MatMulIntegerToFloat"] == 2
    assert found["QuantizeLinear"] == 2
    assert found["MatMul"] == found["DequantizeLinear"] == 0


def test_dynamic_products_are_fused(mlp: ir.Model, tmp_path: Path) -> None:
    found = optimized(run(DYNAMIC, mlp, None), tmp_path)

    assert found["DynamicQuantizeMatMul"] == 2
    assert found["MatMul"] == found["MatMulInteger"] == 0


def test_a_residual_network_stays_in_bytes(residual_net: ir.Model, images: Samples, tmp_path: Path) -> None:
    found = optimized(run(STATIC, residual_net, images), tmp_path)

    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["QGemm"] == 1
    assert found["QuantizeLinear"] == 1
    assert found["DequantizeLinear"] == 0
    assert found["Conv"] == found["Add"] == found["Relu"] == found["Gemm"] == 0


def test_what_only_moves_numbers_keeps_their_scale(residual_net: ir.Model, images: Samples) -> None:
    after = run(STATIC, residual_net, images)

    scales = {
        node.inputs[0].name: node.inputs[1].name
        for node in after.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] and node.inputs[1]
    }
    assert scales["m2"] == scales["a2"]
    assert scales["f"] == scales["g"]
    assert scales["c1"] != scales["c2"]


def test_readers_share_one_conversion_and_others_keep_the_float() -> None:
    model = parse(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2, 2] v = {1.0, 2.0, 3.0, 4.0}>
        { h = Tanh(x) a = MatMul(h, w) b = MatMul(h, v) s = Add(a, b) y = Add(s, h) }
        """
    )

    STATIC.run(model, FactCache(model))

    operators = Counter(node.op_type for node in model.graph)
    assert operators["QuantizeLinear"] == 1
    last = model.graph.outputs[0].producer()
    assert last is not None
    assert last.inputs[1] is not None
    assert last.inputs[1].name == "h"


def test_biases_are_integers_at_the_scale_of_the_products(residual_net: ir.Model, images: Samples) -> None:
    after = run(STATIC, residual_net, images)

    stored = {
        n: v.const_value.numpy() for n, v in after.graph.initializers.items() if v.const_value is not None
    }
    for site, data in (("c1", "image"), ("logits", "g")):
        assert stored[f"{site}_bias_int32"].dtype == np.int32
        product = stored[f"{data}_scale"] * stored[f"{site}_weight_scale"]
        np.testing.assert_allclose(stored[f"{site}_bias_scale"], product, rtol=1e-6)
