"""Which layer of a quantized model is the first to go wrong, whoever quantized it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.passes.quantize.diagnosis.compare import Step, walk
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from tests.passes.rows import Rows, literal, weight

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
STEP = Quantize8bit(min_matmul_elements=64, min_conv_elements=64)


def network() -> ir.Model:
    w1, w2, w3 = weight(1, 8, 3, 3, 3), weight(2, 8, 8, 3, 3) / 8, weight(3, 8, 8, 3, 3) / 8
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, 6, 6] image) => (float[N, 8, 1, 1] y)
        <float[8, 3, 3, 3] w1 = {literal(w1)}, float[8, 8, 3, 3] w2 = {literal(w2)},
         float[8, 8, 3, 3] w3 = {literal(w3)}>
        {{
            c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
            r1 = Relu(c1)
            c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
            r2 = Relu(c2)
            c3 = Conv<pads = [1, 1, 1, 1]>(r2, w3)
            r3 = Relu(c3)
            y = GlobalAveragePool(r3)
        }}
        """
    )


def quantized(model: ir.Model, data: Rows) -> ir.Model:
    copy = model.clone()
    STEP.apply(copy, FactCache(copy), STEP.propose(copy, FactCache(copy)).choices[:])
    STEP.fit(copy, data)
    return copy


@pytest.fixture
def images() -> Rows:
    return Rows({"image": weight(11, 16, 3, 6, 6)})


def test_healthy_8_bits_do_not_jump(images: Rows) -> None:
    model = network()

    walked = walk(model, quantized(model, images), images)

    assert walked.first_jump is None
    assert {"r1", "r2", "r3", "y"} <= {step.value for step in walked.steps}
    assert all(0.0 < step.error < 0.05 for step in walked.steps)


@pytest.mark.parametrize(("layer", "result"), [("c1", "r1"), ("c2", "r2"), ("c3", "r3")])
def test_the_first_layer_with_a_wrong_scale_is_named(layer: str, result: str, images: Rows) -> None:
    model = network()
    other = quantized(model, images)
    scale = other.graph.initializers[f"{layer}_weight_scale"]
    assert scale.const_value is not None
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(3.0), name=scale.name)

    walked = walk(model, other, images)

    assert walked.first_jump is not None
    assert walked.first_jump.value in {layer, result}
    assert walked.first_jump.error_before < 0.05 < walked.first_jump.error


@pytest.mark.parametrize(
    ("before", "after", "jumps"),
    [(0.0, 0.5, True), (0.2, 0.3, False), (0.0, 0.04, False), (0.02, 0.06, True)],
)
def test_a_jump_is_many_times_what_came_in_and_not_small(before: float, after: float, jumps: bool) -> None:
    assert Step("v", "Conv", error=after, error_before=before).jumps is jumps


def test_integers_between_layers_are_brought_back_to_floats(images: Rows) -> None:
    """QLinearConv writes the Relu into its range; the next layer reads the integers."""
    model = network()
    by_hand = parse(
        f"""
        {HEADER}
        net (float[N, 3, 6, 6] image) => (float[N, 8, 1, 1] y)
        <float xs = {{0.04}}, uint8 xz = {{128}}, float c1_scale = {{0.06}}, uint8 c1_zero_point = {{0}},
         float ws = {{{float(np.abs(weight(1, 8, 3, 3, 3)).max() / 127)!r}}}, int8 wz = {{0}},
         float[8, 3, 3, 3] w1 = {literal(weight(1, 8, 3, 3, 3))},
         float[8, 8, 3, 3] w2 = {literal(weight(2, 8, 8, 3, 3) / 8)},
         float[8, 8, 3, 3] w3 = {literal(weight(3, 8, 8, 3, 3) / 8)}>
        {{
            image_quantized = QuantizeLinear(image, xs, xz)
            w1_quantized = QuantizeLinear(w1, ws, wz)
            c1_quantized = QLinearConv<pads = [1, 1, 1, 1]>(image_quantized, xs, xz, w1_quantized, ws, wz,
                                                            c1_scale, c1_zero_point)
            restored = DequantizeLinear(c1_quantized, c1_scale, c1_zero_point)
            c2 = Conv<pads = [1, 1, 1, 1]>(restored, w2)
            r2 = Relu(c2)
            c3 = Conv<pads = [1, 1, 1, 1]>(r2, w3)
            r3 = Relu(c3)
            y = GlobalAveragePool(r3)
        }}
        """
    )

    walked = walk(model, by_hand, images)

    assert [step.value for step in walked.steps] == ["r1", "c2", "r2", "c3", "r3", "y"]
    assert walked.steps[0].error < 0.03
    assert walked.first_jump is None
    assert walked.unmatched == ("c1",)


def test_models_without_common_values_are_refused(images: Rows) -> None:
    other = network()
    for node in other.graph:
        if node.outputs[0].name != "y":
            node.outputs[0].name = f"renamed_{node.outputs[0].name}"

    with pytest.raises(UsageError, match="share no inner values by name"):
        walk(network(), other, images)


def test_other_inputs_are_refused(images: Rows) -> None:
    other = network()
    other.graph.inputs[0].name = "picture"

    with pytest.raises(UsageError, match=r"different inputs: \['image'\] and \['picture'\]"):
        walk(network(), other, images)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        walk(network(), network(), Rows({"image": weight(1, 0, 3, 6, 6)}))
