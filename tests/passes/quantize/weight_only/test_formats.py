"""Names of formats, what they cost, and who runs them faster."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapass.passes.quantize.weight_only.formats import (
    USES,
    Format,
    Kind,
    faster_on,
    integer_type,
    use_of,
)


@pytest.mark.parametrize(
    "text",
    [
        "int8",
        "int8-g128",
        "int4-g32",
        "int2-g16",
        "int4-g32-rank8",
        "int8-rank4",
        "float16",
        "bfloat16",
        "binary-2",
    ],
)
def test_a_name_reads_back(text: str) -> None:
    assert Format.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int3",
        "int4-g257",
        "int4-g32-rank0",
        "int4-g32-rank2000",
        "binary-0",
        "binary-5",
        "float8",
        "int4-g32 ",
    ],
)
def test_refuses_what_is_no_format(text: str) -> None:
    with pytest.raises(ValueError, match="no format of stored weights"):
        Format.parse(text)


@pytest.mark.parametrize(
    ("text", "opset"),
    [("int8", 13), ("int8-g32", 21), ("int4-g32", 21), ("int2-g32", 25), ("float16", 13), ("binary-2", 13)],
)
def test_asks_for_the_opset_that_has_its_type(text: str, opset: int) -> None:
    assert Format.parse(text).opset == opset


@pytest.mark.parametrize(
    ("text", "symmetric", "bits"),
    [
        pytest.param("int4-g32", True, 4 + 32 / 32, id="one-scale-for-32"),
        pytest.param("int4-g32", False, 4 + 36 / 32, id="and-a-zero-point"),
        pytest.param("int8", True, 8 + 32 / 64, id="one-scale-an-output"),
        pytest.param("int4-g32-rank2", True, 5 + 2 * (64 + 16) * 32 / (64 * 16), id="with-a-branch"),
        pytest.param("float16", True, 16.0, id="half"),
        pytest.param("binary-3", True, 3 * (1 + 32 / 32), id="three-codes"),
    ],
)
def test_counts_everything_that_is_stored(text: str, symmetric: bool, bits: float) -> None:
    assert Format.parse(text).stored_bits(64, 16, symmetric=symmetric) == pytest.approx(bits)


def test_integers_are_faster_in_products_only() -> None:
    four = Format.parse("int4-g32")

    assert faster_on(four, "MatMul", 64) == ("onnxruntime", "openvino")
    assert faster_on(four, "MatMul", 72) == ("onnxruntime",)
    assert faster_on(four, "Conv", 64) == ()
    assert faster_on(Format.parse("int2-g32"), "MatMul", 64) == ("onnxruntime",)
    assert faster_on(Format.parse("float16"), "MatMul", 64) == ()
    assert use_of("tvm", four) is None


def test_every_format_has_a_use_on_both_runtimes() -> None:
    kinds = {"int2", "int4", "int8", *(str(kind) for kind in Kind if kind is not Kind.INTEGER)}

    assert {format_ for _, format_ in USES} == kinds
    assert len(USES) == 2 * len(kinds)


def test_signed_without_zero_points() -> None:
    assert integer_type(4, symmetric=True) is ir.DataType.INT4
    assert integer_type(4, symmetric=False) is ir.DataType.UINT4


@pytest.mark.parametrize(("inputs", "group"), [(64, 32), (72, 24), (27, 27), (7, 7), (37, 1)])
def test_groups_of_a_convolution_divide_its_inputs(inputs: int, group: int) -> None:
    assert Format.parse("int4-g32").for_convolution(inputs).group == group
    assert Format.parse("int8").for_convolution(inputs).group is None
