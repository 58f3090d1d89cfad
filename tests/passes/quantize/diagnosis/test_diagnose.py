"""The worst layer comes first, and its reason is the one that was built in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.errors import DataError, UsageError
from adapass.graph.text import parse
from adapass.passes.quantize.diagnosis.diagnose import Layer, diagnose
from adapass.passes.quantize.diagnosis.reasons import weight_reasons
from adapass.passes.quantize.diagnosis.traits import Channels
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.rescaling.migrate import Migrate
from tests.passes.rows import Rows, literal, weight

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
STEP = Quantize8bit(min_matmul_elements=64, min_conv_elements=64, migrate=Migrate.NEVER)
MIGRATING = Quantize8bit(min_matmul_elements=64, min_conv_elements=64)
PER_TENSOR = Quantize8bit(
    min_matmul_elements=64, min_conv_elements=64, per_channel=False, migrate=Migrate.NEVER
)
MIN_MAX = Quantize8bit(
    min_matmul_elements=64, ranges=RangeMethod.MIN_MAX, calibration_samples=400, migrate=Migrate.NEVER
)
FACTOR = 100.0
Floats = npt.NDArray[np.float32]


def convolutions(sabotaged: int | None) -> ir.Model:
    """Three convolutions. Channel 2 of one is 100 times as large, and is scaled down again behind it."""
    weights: list[Floats] = [
        weight(1, 8, 3, 3, 3),
        weight(2, 8, 8, 3, 3, scale=1 / 8),
        weight(3, 8, 8, 3, 3, scale=1 / 8),
        weight(4, 5, 8),
    ]
    scales = [np.ones((8, 1, 1), np.float32) for _ in range(3)]
    if sabotaged is not None:
        weights[sabotaged][2] *= FACTOR
        scales[sabotaged][2] /= FACTOR
    w1, w2, w3, w4 = (literal(w) for w in weights)
    s1, s2, s3 = (literal(s) for s in scales)
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, 8, 8] image) => (float[N, 5] logits)
        <float[8, 3, 3, 3] w1 = {w1}, float[8, 8, 3, 3] w2 = {w2}, float[8, 8, 3, 3] w3 = {w3},
         float[5, 8] w4 = {w4}, float[8, 1, 1] s1 = {s1}, float[8, 1, 1] s2 = {s2}, float[8, 1, 1] s3 = {s3}>
        {{
            c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
            r1 = Relu(c1)
            m1 = Mul(r1, s1)
            c2 = Conv<pads = [1, 1, 1, 1]>(m1, w2)
            r2 = Relu(c2)
            m2 = Mul(r2, s2)
            c3 = Conv<pads = [1, 1, 1, 1]>(m2, w3)
            r3 = Relu(c3)
            m3 = Mul(r3, s3)
            g = GlobalAveragePool(m3)
            f = Flatten(g)
            logits = Gemm<transB = 1>(f, w4)
        }}
        """
    )


def products(*, outlier: bool) -> ir.Model:
    first, second, third = weight(1, 16, 24), weight(2, 24, 24) / 5, weight(3, 24, 8) / 5
    if outlier:
        second[:, 7] *= FACTOR
        third[7] /= FACTOR
    return parse(
        f"""
        {HEADER}
        net (float[N, 16] x) => (float[N, 8] y)
        <float[16, 24] w1 = {literal(first)}, float[24, 24] w2 = {literal(second)},
         float[24, 8] w3 = {literal(third)}>
        {{
            p1 = MatMul(x, w1)
            h1 = Tanh(p1)
            p2 = MatMul(h1, w2)
            y = MatMul(p2, w3)
        }}
        """
    )


@pytest.fixture
def images() -> Rows:
    return Rows({"image": weight(11, 24, 3, 8, 8)})


@pytest.fixture
def rows() -> Rows:
    return Rows({"x": weight(12, 40, 16)})


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("sabotaged", [0, 1, 2])
def test_a_convolution_with_one_channel_100_times_the_others_comes_first(
    sabotaged: int, per_channel: bool, images: Rows
) -> None:
    options = STEP if per_channel else PER_TENSOR

    worst = diagnose(convolutions(sabotaged), images, options=options).layers[0]

    assert worst.site == f"c{sabotaged + 1}"
    assert any(r.startswith("weight: channel 2 reaches ") for r in worst.reasons) is not per_channel
    assert worst.operator == "Conv"
    assert worst.share > 0.4
    assert worst.measured["result channel ratio"] > 30.0
    assert any(r.startswith("result: channel 2 reaches ") for r in worst.reasons)
    assert any("skip-sites" in remedy for remedy in worst.remedies)


def test_the_same_model_in_order_has_no_such_layer(images: Rows) -> None:
    found = diagnose(convolutions(None), images, options=STEP)

    assert all(layer.damage.distortion < 0.1 for layer in found.layers)
    assert not any("reaches" in reason for layer in found.layers for reason in layer.reasons)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1.0)


def test_one_scale_a_weight_is_blamed_on_the_weight(rows: Rows) -> None:
    found = diagnose(products(outlier=True), rows, options=PER_TENSOR)

    worst = next(layer for layer in found.layers if layer.site == "p2")
    assert worst.reasons[0].startswith("weight: channel 7 reaches ")
    assert any("per-channel=true" in remedy for remedy in worst.remedies)
    assert worst.weight_shape == (24, 24)


def test_a_scale_a_channel_moves_the_blame_to_who_reads_the_outlier(rows: Rows) -> None:
    worst = diagnose(products(outlier=True), rows, options=STEP).layers[0]

    assert worst.site == "y"
    assert worst.reasons[0].startswith("input (of 'p2'): channel 7 reaches ")
    assert any("migrate=always" in remedy for remedy in worst.remedies)


def test_what_is_said_is_of_the_model_as_it_will_be_rounded(rows: Rows) -> None:
    """With migration the outlier is gone, and with it the damage."""
    before = diagnose(products(outlier=True), rows, options=STEP).layers[0]
    after = diagnose(products(outlier=True), rows, options=MIGRATING).layers

    assert max(layer.damage.distortion for layer in after) < 0.2 * before.damage.distortion
    assert not any("reaches" in reason for layer in after for reason in layer.reasons)


def by_site(model: ir.Model, data: Rows, options: Quantize8bit, site: str) -> Layer:
    return next(layer for layer in diagnose(model, data, options=options).layers if layer.site == site)


def test_numbers_far_from_zero_leave_levels_unused() -> None:
    """What counts is what rounding does to them: that is little, beside their size."""
    near = Rows({"x": weight(12, 40, 16, scale=0.05) + np.float32(8.0)})

    layer = by_site(products(outlier=False), near, STEP, "p1")

    assert layer.measured["input error"] < 0.01
    assert not any("begin far from zero" in reason for reason in layer.reasons)


def test_few_large_numbers_stretch_the_range() -> None:
    x = weight(12, 400, 16)
    x[np.arange(3), np.arange(3)] = 90.0

    layer = by_site(products(outlier=False), Rows({"x": x}), MIN_MAX, "p1")

    assert layer.reasons[0].startswith("input: ")
    assert "few large ones stretch the range" in layer.reasons[0] or "channel" in layer.reasons[0]
    assert layer.measured["input error"] > 0.05


def test_a_range_that_cuts_is_named(rows: Rows) -> None:
    narrow = Quantize8bit(min_matmul_elements=64, ranges=RangeMethod.PERCENTILE, percentile=90.0)

    layer = by_site(products(outlier=False), rows, narrow, "p1")

    assert any("lie outside the range and are cut" in reason for reason in layer.reasons)
    assert any("min-max" in remedy for remedy in layer.remedies)


def test_a_scale_a_channel_is_no_reason() -> None:
    unequal = Channels(largest=3, ratio=50.0, error=0.1)

    assert weight_reasons(unequal, per_channel=True) == []
    assert len(weight_reasons(unequal, per_channel=False)) == 1


def test_refused_layers_keep_their_reason(images: Rows) -> None:
    found = diagnose(convolutions(None), images, options=STEP)

    assert found.refused == {"logits": "the weight is too small to pay for the conversions"}


def test_a_model_without_products_is_refused(rows: Rows) -> None:
    model = parse(f"{HEADER} net (float[N, 16] x) => (float[N, 16] y) {{ y = Relu(x) }}")

    with pytest.raises(UsageError, match="no product with a constant weight"):
        diagnose(model, rows)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        diagnose(products(outlier=False), Rows({"x": weight(1, 0, 16)}), options=STEP)
