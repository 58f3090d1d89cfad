"""Shape inference: fresh, symbolic, and seeing a little further than ONNX's own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.graph.elements import elements
from adapass.graph.shapes import KEPT_BYTES, infer_shapes, skeleton
from adapass.graph.text import parse

HEADER = '<ir_version: 10, opset_import: ["" : 20, "f" : 1]>\n'


def _values(body: str) -> dict[str, ir.Value]:
    return dict(ir.convenience.create_value_mapping(parse(HEADER + body).graph))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param("h = Relu(x)", "[B,S,8]", id="plain"),
        pytest.param(
            "s = Shape<start = 1, end = 2>(x) h = Slice(x, zero, s, one)",
            "[B,S,8]",
            id="slice-to-its-own-end",
        ),
        pytest.param(
            "s = Shape<start = 1, end = 2>(x) p = Slice(t, zero, s, one) h = Add(x, p)",
            "[B,S,8]",
            id="position-table",
        ),
        pytest.param(
            "s = Shape<start = 1, end = 2>(x) p = Slice(t, zero, s, one) h = Add(p, t)",
            None,
            id="position-table-against-itself",
        ),
        pytest.param("s = Shape<start = 1, end = 2>(x) q = Squeeze(s) h = Range(z, q, o)", "[S]", id="range"),
    ],
)
def test_sees_through(lines: str, expected: str | None) -> None:
    table = ",".join(["0"] * 128)
    values = _values(
        f"""g (float[B,S,8] x) => (float[C,D,E] y) <float[1,16,8] t = {{{table}}}, int64[1] zero = {{0}},
            int64[1] one = {{1}}, int64 z = {{0}}, int64 o = {{1}}> {{ {lines} y = Neg(x) }}"""
    )

    if expected is None:
        assert "S" not in str(values["h"].shape).replace("min_of_S", "")
    else:
        assert str(values["h"].shape) == expected


def test_two_unknown_lengths_stay_unknown() -> None:
    values = _values("g (float[B,S] x, float[B,T] z) => (float[C,D] y) { h = Add(x, z) y = Neg(h) }")

    assert values["h"].shape is not None
    assert str(values["h"].shape[1]) not in {"S", "T"}


def test_looks_into_functions() -> None:
    values = _values(
        """g (float[N,2] x) => (float[N,2] y) { h = f.twice(x) y = Neg(h) }
           <domain: "f", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }"""
    )

    assert str(values["h"].shape) == "[N,2]"


def test_forgets_what_was_there() -> None:
    model = parse(HEADER + "g (float[N,2] x) => (float[N,2] y) { h = Relu(x) y = Neg(h) }")
    value = model.graph[0].outputs[0]
    value.shape, value.type = ir.Shape([7]), ir.TensorType(ir.DataType.INT8)

    infer_shapes(model)

    assert str(value.shape) == "[N,2]"
    assert value.dtype == ir.DataType.FLOAT


def test_a_skeleton_leaves_large_data_out_and_the_model_alone() -> None:
    model = parse(HEADER + "g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.zeros(KEPT_BYTES, np.float32), name="w")

    assert skeleton(model).ByteSize() < KEPT_BYTES
    assert value.const_value.nbytes == 4 * KEPT_BYTES


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param("v = Shape(x)", ("B", "S", 8), id="shape"),
        pytest.param("s = Shape(x) v = Gather(s, neg)", (8,), id="gather-from-the-end"),
        pytest.param("s = Shape(x) v = Slice(s, one, two)", ("S",), id="slice"),
        pytest.param("s = Shape(x) v = Concat<axis = 0>(s, two)", ("B", "S", 8, 2), id="concat"),
        pytest.param("s = Shape<start = 2>(x) v = Mul(s, two)", (16,), id="product-of-numbers"),
        pytest.param("s = Shape(x) v = Mul(s, two)", (None, None, 16), id="product-with-a-symbol"),
        pytest.param("s = Shape(x) v = Cast<to = 1>(s)", None, id="cast-to-float"),
        pytest.param("s = Shape(x) v = Unsqueeze(s, one)", None, id="matrix"),
        pytest.param("s = Shape(x) v = Neg(s)", None, id="unknown-operator"),
    ],
)
def test_elements(lines: str, expected: tuple[object, ...] | None) -> None:
    values = _values(
        f"""g (float[B,S,8] x) => (float[B,S,8] y) <int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1]
          neg = {{-1}}>
            {{ {lines} w = Abs(v) y = Neg(x) }}"""
    )

    assert elements(values["v"]) == expected
