"""quantize-8bit{correct-bias=true}: mean errors of products go into their biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Samples
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.rescaling.migrate import Migrate
from adapass.passes.quantize.sites import Setting
from tests.passes.quantize.conftest import HEADER
from tests.passes.rows import Rows, literal, weight

COARSE = Quantize8bit(min_matmul_elements=64, min_conv_elements=64, per_channel=False, migrate=Migrate.NEVER)


def uneven(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Output channels (the first axis) of very different size: one scale for all rounds some coarsely."""
    sizes = np.geomspace(1.0, 0.02, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    return (weight(seed, *shape) * sizes).astype(np.float32)


@pytest.fixture
def coarse_net() -> ir.Model:
    """A convolution with and one without a bias, and a product with an Add behind it."""
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, 6, 6] image) => (float[N, 8] y)
        <float[16, 3, 3, 3] w1 = {literal(uneven(1, 16, 3, 3, 3))}, float[16] b1 = {literal(weight(2, 16))},
         float[16, 16, 3, 3] w2 = {literal(uneven(3, 16, 16, 3, 3) / 12)},
         float[16, 8] w3 = {literal(np.ascontiguousarray(uneven(5, 8, 16).T))},
         float[8] b3 = {literal(weight(6, 8))}, int64[2] axes = {{2, 3}}>
        {{
            c1 = Conv(image, w1, b1)
            r1 = Relu(c1)
            c2 = Conv(r1, w2)
            r2 = Relu(c2)
            g = ReduceMean<keepdims = 0>(r2, axes)
            p3 = MatMul(g, w3)
            y = Add(p3, b3)
        }}
        """
    )


def images(seed: int) -> Rows:
    return Rows({"image": np.abs(weight(seed, 48, 3, 6, 6))})


def quantized(model: ir.Model, data: Samples, *, correct: bool, options: Quantize8bit = COARSE) -> ir.Model:
    step = replace(options, correct_bias=correct)
    copy = model.clone()
    assert step.run(copy, FactCache(copy)).changed
    step.fit(copy, data)
    step.check(model, copy, [data.feeds(0)])
    return copy


def mean_error(model: ir.Model, result: ir.Model, name: str, data: Rows) -> float:
    """Root mean square over channels of the mean error, new samples."""
    a, b = (Session(m, outputs=[name]).run(data.arrays)[name].astype(np.float64) for m in (model, result))
    means = np.moveaxis(b - a, 1, -1).reshape(-1, a.shape[1]).mean(axis=0)
    return float(np.linalg.norm(means))


@pytest.mark.parametrize("name", ["c1", "c2", "y"])
def test_means_of_every_product_come_closer(coarse_net: ir.Model, name: str) -> None:
    plain = quantized(coarse_net, images(7), correct=False)
    corrected = quantized(coarse_net, images(7), correct=True)

    before, after = (mean_error(coarse_net, each, name, images(8)) for each in (plain, corrected))

    assert after < 0.5 * before


def test_a_dynamic_product_is_corrected_in_the_sum_behind_it(mlp: ir.Model, rows: Samples) -> None:
    shifted = Rows({"x": rows.batch(range(40))["x"].astype(np.float32) + np.float32(3.0)})
    options = replace(COARSE, settings=(Setting.DYNAMIC,), reduce_range=True)

    plain = quantized(mlp, shifted, correct=False, options=options)
    corrected = quantized(mlp, shifted, correct=True, options=options)

    assert all(node.op_type != "QuantizeLinear" for node in corrected.graph)
    means = [
        np.abs(
            np.mean(
                Session(each, outputs=["s1"]).run(shifted.arrays)["s1"].astype(np.float64)
                - Session(mlp, outputs=["s1"]).run(shifted.arrays)["s1"].astype(np.float64),
                axis=(0, 1),
            )
        ).mean()
        for each in (plain, corrected)
    ]
    assert means[1] < 0.5 * means[0]


def test_without_a_bias_nothing_is_added(coarse_net: ir.Model) -> None:
    last = coarse_net.graph.initializers["b3"]
    adding = next(iter(last.uses())).node
    product = adding.inputs[0]
    assert product is not None
    coarse_net.graph.outputs[0] = product
    product.shape = adding.outputs[0].shape
    coarse_net.graph.remove(adding)

    corrected = quantized(coarse_net, images(7), correct=True)
    plain = quantized(coarse_net, images(7), correct=False)

    assert [n.op_type for n in corrected.graph].count("Add") == 0
    extra = len(list(corrected.graph)) - len(list(plain.graph))
    assert extra == 1, "the integer bias of the convolution that had none"


def test_a_constant_of_every_position_is_no_bias() -> None:
    model = parse(
        f"""
        {HEADER}
        g (float[N, 5, 16] x) => (float[N, 5, 8] y)
        <float[16, 8] w = {literal(weight(1, 16, 8))}, float[5, 8] places = {literal(weight(2, 5, 8))}>
        {{ p = MatMul(x, w)
           y = Add(p, places) }}
        """
    )

    result = quantized(model, Rows({"x": weight(3, 8, 5, 16)}), correct=True)

    adding = next(node for node in result.graph if node.op_type == "Add")
    assert "places" in {value.name for value in adding.inputs if value is not None}


def test_the_option_off_leaves_biases_as_they_are(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(mlp, rows, correct=False)

    for name in ("b1", "b2"):
        a, b = mlp.graph.initializers[name].const_value, result.graph.initializers[name].const_value
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.numpy(), b.numpy())
