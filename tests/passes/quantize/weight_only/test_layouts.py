"""What the runtimes make of the layouts, read off the graphs they execute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from adapass.budgeted import Array
from adapass.execution import Session, ort
from adapass.facts import FactCache
from adapass.graph.save import save_model
from adapass.graph.text import clone, parse
from adapass.passes.quantize.weight_only.formats import Format, faster_on, use_of
from adapass.passes.quantize.weight_only.grid import Doubles
from adapass.passes.quantize.weight_only.quantize_weights import QuantizeWeights
from tests.passes.quantize.conftest import HEADER
from tests.passes.rows import literal, weight

LEVEL = "session.qdq_matmulnbits_accuracy_level"
X = weight(5, 4, 64)


def product(operator: str) -> ir.Model:
    bodies = {
        "MatMul": ("float[64, 32] w", weight(1, 64, 32), "y = MatMul(x, w)"),
        "Gemm": ("float[32, 64] w", weight(1, 32, 64), "y = Gemm<transB = 1, alpha = 0.5>(x, w, b)"),
    }
    declared, array, body = bodies[operator]
    return parse(
        f"""
        {HEADER}
        product (float[N, 64] x) => (float[N, 32] y)
        <{declared} = {literal(array)}, float[32] b = {literal(weight(2, 32))}> {{ {body} }}
        """
    )


def convolution() -> ir.Model:
    return parse(
        f"""
        {HEADER}
        net (float[N, 8, 5, 5] x) => (float[N, 6, 5, 5] y)
        <float[6, 8, 3, 3] w = {literal(weight(1, 6, 8, 3, 3))}>
        {{ y = Conv<pads = [1, 1, 1, 1]>(x, w) }}
        """
    )


def stored(model: ir.Model, format_: str, *, symmetric: bool = False) -> ir.Model:
    after = clone(model)
    family = QuantizeWeights(settings=(format_,), min_elements=1, symmetric=symmetric)
    facts = FactCache(after)
    family.apply(after, facts, family.propose(after, facts).choices)
    return after


def executed(
    model: ir.Model, folder: Path, feeds: Mapping[str, Array], level: str | None = None
) -> tuple[list[onnx.NodeProto], Doubles]:
    """Nodes that ONNX Runtime executes, and the result."""
    save_model(model, folder / "model.onnx")
    options: Any = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    if level is not None:
        options.add_session_config_entry(LEVEL, level)
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    result = np.asarray(session.run(None, dict(feeds))[0], np.float64)
    return list(onnx.ModelProto.FromString((folder / "optimized.onnx").read_bytes()).graph.node), result


def attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize(
    ("format_", "bits", "block"),
    [
        ("int8", 8, 32),  # one scale an output is spread over blocks
        ("int8-g32", 8, 32),
        ("int4-g16", 4, 16),
        ("int4-g32", 4, 32),
        ("int2-g32", 2, 32),
    ],
)
def test_onnx_runtime_multiplies_with_what_is_stored(
    operator: str, format_: str, bits: int, block: int, symmetric: bool, tmp_path: Path
) -> None:
    nodes, _ = executed(stored(product(operator), format_, symmetric=symmetric), tmp_path, {"x": X})

    assert [node.op_type for node in nodes] == ["MatMulNBits"]
    found = attributes(nodes[0])
    assert (found["bits"], found["block_size"]) == (bits, block)
    assert found["accuracy_level"] == 4
    assert faster_on(Format.parse(format_), operator, 64)[0] == "onnxruntime"


def test_the_accuracy_level_decides_whether_activations_are_rounded(tmp_path: Path) -> None:
    model = stored(product("MatMul"), "int4-g32")
    plain = ort.InferenceSession(_bytes(model), _unoptimized(), providers=["CPUExecutionProvider"])
    exact = np.asarray(plain.run(None, {"x": X})[0], np.float64)

    def error(level: str | None) -> float:
        nodes, found = executed(model, tmp_path, {"x": X}, level)
        assert attributes(nodes[0])["accuracy_level"] == int(level or 4)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert error("1") < 1e-5
    assert 1e-3 < error("4") < 0.02
    assert error(None) == error("4")


@pytest.mark.parametrize("format_", ["int8", "int4-g32", "int2-g32"])
def test_samples_do_not_see_each_other(format_: str, tmp_path: Path) -> None:
    """Activations are rounded row by row: choices are batch invariant as they say."""
    model = stored(product("MatMul"), format_)
    others = np.concatenate([X[:1], 1000.0 * X[1:]])

    results = [executed(model, tmp_path, {"x": x})[1] for x in (X, others, X[:1])]

    np.testing.assert_allclose(results[1][:1], results[0][:1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[2], results[0][:1], rtol=1e-5, atol=1e-5)


def _bytes(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString())


def _unoptimized() -> Any:
    options: Any = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@pytest.mark.parametrize("format_", ["float16", "bfloat16", "binary-2"])
def test_onnx_runtime_restores_the_others_once(format_: str, tmp_path: Path) -> None:
    nodes, _ = executed(stored(product("MatMul"), format_), tmp_path, {"x": X})

    assert [node.op_type for node in nodes] == ["MatMul"]
    use = use_of("onnxruntime", Format.parse(format_))
    assert use is not None
    assert not use.faster


@pytest.mark.parametrize("format_", ["int8", "int4-g32"])
def test_onnx_runtime_restores_convolutions_in_every_run(format_: str, tmp_path: Path) -> None:
    nodes, _ = executed(stored(convolution(), format_), tmp_path, {"x": weight(6, 2, 8, 5, 5)})

    operators = [node.op_type for node in nodes]
    assert operators[0] == "DequantizeLinear"
    assert operators[-1] == "Conv"
    assert faster_on(Format.parse(format_), "Conv", 72) == ()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("format_", "type_"), [("int8", "8"), ("int8-g32", "8"), ("int4-g32", "4")])
def test_openvino_multiplies_with_what_is_stored(
    operator: str, format_: str, type_: str, symmetric: bool, tmp_path: Path
) -> None:
    model = stored(product(operator), format_, symmetric=symmetric)

    compiled, result = _openvino(model, tmp_path, X)

    products = _layers(compiled, "FullyConnected")
    assert len(products) == 1
    weight_type = str(products[0].input(1).get_element_type().get_type_name())
    assert weight_type == f"{'i' if symmetric else 'u'}{type_}"
    exact = Session(model).run({"x": X})["y"].astype(np.float64)
    assert np.linalg.norm(result - exact) < 0.02 * np.linalg.norm(exact)
    assert "openvino" in faster_on(Format.parse(format_), operator, 64)


def test_openvino_rounds_activations_unless_told_otherwise(tmp_path: Path) -> None:
    model = stored(product("MatMul"), "int4-g32")
    exact = Session(model).run({"x": X})["y"].astype(np.float64)

    def error(**properties: str) -> float:
        found = _openvino(model, tmp_path, X, **properties)[1]
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert 1e-3 < error() < 0.02
    assert error(DYNAMIC_QUANTIZATION_GROUP_SIZE="0") < 1e-5


@pytest.mark.parametrize(("format_", "again"), [("float16", False), ("bfloat16", False), ("binary-2", True)])
def test_openvino_restores_the_others(format_: str, again: bool, tmp_path: Path) -> None:
    compiled, _ = _openvino(stored(product("MatMul"), format_), tmp_path, X)

    assert bool(_layers(compiled, "Convert", "Eltwise")) == again
    assert str(_layers(compiled, "FullyConnected")[0].input(1).get_element_type().get_type_name()) == "f32"
    use = use_of("openvino", Format.parse(format_))
    assert use is not None
    assert ("every run" in use.note) == again


@pytest.mark.parametrize("format_", ["int8", "int4-g32"])
def test_openvino_reads_convolutions_and_restores_them(format_: str, tmp_path: Path) -> None:
    images = weight(6, 2, 8, 5, 5)
    model = stored(convolution(), format_)

    compiled, result = _openvino(model, tmp_path, images)

    layer = _layers(compiled, "Convolution")[0]
    assert str(layer.input(1).get_element_type().get_type_name()) == "f32"
    expected = np.asarray(Session(model).run({"x": images})["y"], np.float64)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_openvino_does_not_read_two_bits(tmp_path: Path) -> None:
    pytest.importorskip("openvino")

    with pytest.raises(RuntimeError, match="Unsupported type"):
        _openvino(stored(product("MatMul"), "int2-g32"), tmp_path, X)
    use = use_of("openvino", Format.parse("int2-g32"))
    assert use is not None
    assert "not read" in use.note


def _openvino(model: ir.Model, folder: Path, x: Array, **properties: str) -> tuple[Any, Doubles]:
    openvino: Any = pytest.importorskip("openvino")
    save_model(model, folder / "model.onnx")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(str(folder / "model.onnx")), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties}
    )
    return compiled, np.asarray(compiled({"x": x})[0], np.float64)


def _layers(compiled: Any, *kinds: str) -> list[Any]:
    operators = compiled.get_runtime_model().get_ordered_ops()
    return [each for each in operators if str(each.get_rt_info()["layerType"].astype(str)) in kinds]


def test_the_generators_take_or_refuse_as_the_table_says() -> None:
    from adapass.registry import generator
    from adapass.target import load_target

    target = load_target("x86-64-generic")
    for name in ("onnxruntime", "openvino"):
        backend = generator(name)
        if backend.available() is not None:
            continue
        for format_ in ("int4-g32", "int2-g32"):
            use = use_of(name, Format.parse(format_))
            assert use is not None
            reasons = backend.supports(stored(product("MatMul"), format_), target).reasons
            assert bool(reasons) == ("not read" in use.note)
