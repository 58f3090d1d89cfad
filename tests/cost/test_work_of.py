"""What a runtime executes: conversions around 8-bit products are part of them; and what that needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Feeds
from adapass.cost.model import Work
from adapass.cost.resources import (
    CACHE_PICOJOULES_A_BYTE,
    DRAM_PICOJOULES_A_BYTE,
    PICO,
    energy,
    resources,
)
from adapass.cost.roofline import Roofline
from adapass.cost.work_of import works_of
from adapass.graph.shapes import infer_shapes
from adapass.target import load_target

SIDE = 256
FEED: Feeds = {"x": np.zeros((64, SIDE), np.float32)}

FLOAT = "y = MatMul (x, w)"
STATIC = """
    w_f = DequantizeLinear (w8, s, z8)
    q = QuantizeLinear (x, s, z)
    x_f = DequantizeLinear (q, s, z)
    m = MatMul (x_f, w_f)
    r = Relu (m)
    q_1 = QuantizeLinear (r, s, z)
    y = DequantizeLinear (q_1, s, z)
"""


def model_of(body: str) -> ir.Model:
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[B, {SIDE}] x, float[{SIDE}, {SIDE}] w, int8[{SIDE}, {SIDE}] w8, float s, uint8 z, int8 z8)
    => (float[B, {SIDE}] y) {{ {body} }}"""
    model = ir.from_onnx_text(text)
    stored = {
        "w": np.ones((SIDE, SIDE), np.float32),
        "w8": np.ones((SIDE, SIDE), np.int8),
        "s": np.float32(0.1),
        "z": np.uint8(0),
        "z8": np.int8(0),
    }
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        if value.uses():
            value.const_value = ir.tensor(np.asarray(stored[value.name or ""]), name=value.name)
            model.graph.register_initializer(value)
    infer_shapes(model)
    return model


def works(body: str) -> dict[str, list[Work]]:
    found: dict[str, list[Work]] = {}
    for work in works_of(model_of(body), FEED):
        found.setdefault(work.op, []).append(work)
    return found


def test_a_float_product_reads_its_operands() -> None:
    (product,) = works(FLOAT)["MatMul"]

    assert product.dtype == "f32"
    assert product.bytes_read == 4 * (64 * SIDE + SIDE * SIDE)


def test_an_8_bit_product_reads_a_quarter() -> None:
    (product,) = works(STATIC)["MatMul"]

    assert product.dtype == "i8"
    assert product.bytes_read == 64 * SIDE + SIDE * SIDE


def test_conversions_that_fuse_are_free() -> None:
    found = works(STATIC)

    free = [work for op in ("QuantizeLinear", "DequantizeLinear") for work in found[op]]
    assert [work.bytes_read + work.bytes_written for work in free].count(0) == 2


def test_the_conversion_of_what_comes_in_is_not_free() -> None:
    first, last = works(STATIC)["QuantizeLinear"]

    assert first.bytes_read > 4 * 64 * SIDE
    assert last.bytes_read == 0


def test_a_conversion_back_for_a_float_reader_is_not_free() -> None:
    inside, back = works(STATIC)["DequantizeLinear"]

    assert inside.bytes_written == 0
    assert back.bytes_written == 4 * 64 * SIDE


@pytest.mark.parametrize("name", ["x86-64-vnni", "cuda-sm80", "cuda-h200"])
def test_8_bits_are_modelled_faster_than_float(name: str) -> None:
    target = load_target(name)
    # Enough work that it, and not launches, decides.
    feed = {"x": np.zeros((1 << 16, SIDE), np.float32)}
    inner = """
    w_f = DequantizeLinear (w8, s, z8)
    q = QuantizeLinear (x, s, z)
    x_0 = DequantizeLinear (q, s, z)
    """
    inner += "".join(
        f"m_{k} = MatMul (x_{k}, w_f)\n q_{k} = QuantizeLinear (m_{k}, s, z)\n"
        f"x_{k + 1} = DequantizeLinear (q_{k}, s, z)\n"
        for k in range(6)
    )
    plain = "".join(f"x_{k + 1} = MatMul ({'x' if k == 0 else f'x_{k}'}, w)\n" for k in range(6))
    end = "y = Identity (x_6)"

    small = Roofline().price_all(works_of(model_of(inner + end), feed), target)
    large = Roofline().price_all(works_of(model_of(plain + end), feed), target)

    assert small.seconds < large.seconds


class TestResources:
    def test_counts_weights_operations_and_bytes(self) -> None:
        found = resources(model_of(FLOAT), FEED)

        assert found.weight_bytes == 4 * SIDE * SIDE
        assert found.operations == 2 * 64 * SIDE * SIDE
        assert found.moved_bytes == 4 * (2 * 64 * SIDE + SIDE * SIDE)

    def test_energy_adds_operations_traffic_and_weights(self) -> None:
        found = energy([Work("MatMul", "i8", 1000, 300, 100)], weight_bytes=50)

        expected = 0.115 * 1000 + CACHE_PICOJOULES_A_BYTE * 400 + DRAM_PICOJOULES_A_BYTE * 50
        assert found == pytest.approx(expected * PICO)

    def test_formats_without_a_number_count_as_f32(self) -> None:
        odd, usual = (energy([Work("MatMul", dtype, 1000, 0, 0)], 0) for dtype in ("f8_e4m3", "f32"))

        assert odd == usual > 0

    def test_8_bits_need_less(self) -> None:
        small, large = resources(model_of(STATIC), FEED), resources(model_of(FLOAT), FEED)

        assert small.weight_bytes < large.weight_bytes / 3
        assert small.energy_proxy < large.energy_proxy / 2
