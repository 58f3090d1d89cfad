"""The OpenVINO generator: variants, builds, numbers, what is fused, and errors that name what is wrong."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.artifact import (
    Contents,
    Description,
    GeneratorInfo,
    Kind,
    Latency,
    Original,
    Port,
    Trust,
    load_artifact,
    write_artifact,
)
from adapass.artifact.files import file_info
from adapass.codegen.openvino.executed import EIGHT_BIT, executed_layers
from adapass.codegen.openvino.generator import OpenVino
from adapass.codegen.openvino.plan import Precision
from adapass.codegen.openvino.session import MISSING, OpenVinoSession
from adapass.data import Dataset
from adapass.driver.material import gather
from adapass.driver.request import Request
from adapass.errors import ArtifactError, DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.generator import Generator
from adapass.graph.save import save_model, to_bytes
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_INDEX, EXIT_SELECT, EXIT_THRESHOLDS, add_function
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.sites import Setting
from adapass.registry import generator
from adapass.rewrite import Exactness
from adapass.target import Target, load_target
from adapass.verification import compare_outputs
from tests.lowering.conftest import feed, make

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'adapass[openvino]'")

__all__ = ["feed", "make"]

Array = npt.NDArray[np.generic]

PLAIN = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 4] x) => (float[B, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }
"""

EXITING = """
<ir_version: 10, opset_import: ["" : 20, "adapass" : 1]>
g (float[B, 4] x, float[2] adapass_exit_thresholds) => (float[B, 4] y, int64[B] adapass_exit)
<float[2] adapass_exit_thresholds = {100, 100}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
 int64[1] one = {1}>
{
    a = Add(x, x)
    c0 = ReduceMax<keepdims = 0>(a, one)
    t0 = Gather(adapass_exit_thresholds, i0)
    s0 = GreaterOrEqual(c0, t0)
    b = Add(a, x)
    c1 = ReduceMax<keepdims = 0>(b, one)
    t1 = Gather(adapass_exit_thresholds, i1)
    s1 = GreaterOrEqual(c1, t1)
    end = Add(b, x)
    y1 = adapass.ExitSelect(s1, b, end)
    y = adapass.ExitSelect(s0, a, y1)
    e1 = adapass.ExitSelect(s1, i1, i2)
    adapass_exit = adapass.ExitSelect(s0, i0, e1)
}
"""

ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, S, 16] x, float[16, 16] q, float[16, 16] k, float[16, 16] v, float[16] gain, float[16] bias)
=> (float[B, S, 16] y) <float four = {4}>
{
    xq = MatMul(x, q)
    xk = MatMul(x, k)
    xv = MatMul(x, v)
    kt = Transpose<perm = [0, 2, 1]>(xk)
    score = MatMul(xq, kt)
    scaled = Div(score, four)
    share = Softmax<axis = -1>(scaled)
    mixed = MatMul(share, xv)
    sum = Add(mixed, x)
    normal = LayerNormalization<axis = -1>(sum, gain, bias)
    y = Gelu(normal)
}
"""

CONVOLUTION = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 8, H, W] x, float[16, 8, 3, 3] w, float[16] b,
   float[16, 16, 3, 3] w2, float[16] b2, float[16, 80] w3) => (float[B, 80] y)
{
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(c)
    c2 = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    a = Add(c2, r)
    m = GlobalAveragePool(a)
    f = Flatten(m)
    y = MatMul(f, w3)
}
"""

X = np.array([[1, 0, 0, 0], [5, 0, 0, 0], [9, 0, 0, 0]], np.float32)


def plain() -> ir.Model:
    return ir.from_onnx_text(PLAIN)


def exiting() -> ir.Model:
    model = ir.from_onnx_text(EXITING)
    add_function(model, EXIT_SELECT)
    return model


def filled(text: str) -> ir.Model:
    """The model with random weights in place of all inputs but the first."""
    random = np.random.default_rng(0)
    model = ir.from_onnx_text(text)
    for value in list(model.graph.inputs)[1:]:
        assert value.shape is not None
        weight = random.standard_normal(value.shape.numpy()) / np.sqrt(value.shape.numpy()[0])
        value.const_value = ir.tensor(weight.astype(np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    infer_shapes(model)
    return model


def of_text(body: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20, "strange" : 1]>\n{body}')


STRANGE = "g (float[B] x) => (float[B] y) { z = strange.Thing(x) y = Abs(z) }"
TASKS = Path("/proc/self/task")


def nowhere(name: str) -> None:
    """For ``find_spec``: no package is installed."""
    del name


def with_flags(*flags: str) -> Target:
    target = load_target("x86-64-generic")
    return replace(target, arch={**target.arch, "isa": flags})


def assert_rounding_only(expected: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    worst = compare_outputs([expected], [found]).worst()
    assert worst.within(Exactness.ROUNDING, 2e-5), worst


def artifact_of(model: ir.Model, built: Path, scratch: Path) -> Contents:
    original = scratch / "original.onnx"
    save_model(model, original)
    info = file_info(original)
    about = Description(
        kind=Kind.OPTIMIZED,
        target="cpu",
        task="regression",
        inputs=(Port(name="x", dtype="float32", shape=("B", 4)),),
        outputs=(Port(name="y", dtype="float32", shape=("B", 2)),),
        original=Original(name="original.onnx", sha256=info.sha256, size_bytes=info.size_bytes),
        latency=Latency(before_seconds=2e-3, after_seconds=1e-3, trust=Trust.MEASURED, threads=1, batch=1),
        generator=GeneratorInfo(name="openvino", variant="plain"),
    )
    return Contents(description=about, model=original, recipe={"schema": 1}, generator_folder=built)


@pytest.fixture
def backend() -> Generator:
    return generator("openvino")


@pytest.fixture(scope="session")
def cpu() -> Target:
    return load_target("x86-64-generic")


@pytest.fixture
def built(backend: Generator, cpu: Target, tmp_path: Path) -> Callable[..., Path]:
    def build(model: ir.Model, **options: str | int) -> Path:
        folder = tmp_path / f"build-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        backend.build(model, cpu, folder, options)
        return folder

    return build


def test_is_registered_and_available(backend: Generator) -> None:
    assert isinstance(backend, OpenVino)
    assert backend.available() is None


def test_variants_begin_with_the_exact_one(backend: Generator, cpu: Target) -> None:
    narrow = [(v.name, v.exact) for v in backend.variants(plain(), cpu, threads=1, batch=1)]
    wide = backend.variants(exiting(), with_flags("amx_bf16"), threads=2, batch=1)

    assert narrow == [("plain", True)]
    assert [(v.name, v.exact) for v in wide] == [
        ("if", True),
        ("if-1-thread", True),
        ("if-bf16", False),
        ("staged", True),
        ("staged-1-thread", True),
        ("staged-bf16", False),
    ]


def test_only_masked_compute_where_samples_cannot_leave(
    backend: Generator, cpu: Target, make: Callable[[str, int], ir.Model]
) -> None:
    variants = backend.variants(make("averaged", 2), cpu, threads=1, batch=4)

    assert [v.options["lowering"] for v in variants] == ["masked"]


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_runs_and_says_which_exit_each_sample_took(
    backend: Generator, built: Callable[..., Path], lowering: str
) -> None:
    runner = backend.load(built(exiting(), lowering=lowering), threads=2)

    found = runner.run({"x": X, EXIT_THRESHOLDS: np.array([15, 12], np.float32)})

    assert list(found.outputs) == ["y"]
    assert found.exits is not None
    assert found.exits.tolist() == [2, 1, 0]
    assert found.outputs["y"][:, 0].tolist() == [4, 15, 18]


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_the_default_thresholds_are_those_of_the_model(
    backend: Generator, built: Callable[..., Path], lowering: str
) -> None:
    model = exiting()
    limits = np.array([np.inf, 12], np.float32)
    model.graph.initializers[EXIT_THRESHOLDS].const_value = ir.tensor(limits, name=EXIT_THRESHOLDS)

    runner = backend.load(built(model, lowering=lowering), threads=1)

    for thresholds, exits in (({}, [2, 1, 1]), ({EXIT_THRESHOLDS: limits - 12}, [1, 1, 1])):
        found = runner.run({"x": X, **thresholds})
        assert found.exits is not None
        assert found.exits.tolist() == exits


@pytest.mark.parametrize("family", ["tokens", "patience", "two_outputs", "branching", "trapped", "quantized"])
@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_exits_of_every_kind_are_taken_as_defined(
    backend: Generator,
    built: Callable[..., Path],
    make: Callable[[str, int], ir.Model],
    feed: Callable[[ir.Model, int, int], dict[str, Array]],
    family: str,
    lowering: str,
) -> None:
    model = make(family, 2)
    definition = Session(model)
    runner = backend.load(built(model, lowering=lowering), threads=1)
    for batch, threshold in ((1, np.inf), (5, 0.45), (5, -np.inf)):
        feeds = {**feed(model, batch, 1), EXIT_THRESHOLDS: np.full(2, threshold, np.float32)}
        expected, found = definition.run(feeds), runner.run(feeds)
        assert found.exits is not None
        assert found.exits.tolist() == expected.pop(EXIT_INDEX).tolist()
        assert_rounding_only(expected, found.outputs)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (ATTENTION, [(1, 1, 16), (1, 7, 16), (3, 7, 16), (8, 32, 16), (1, 7, 16)]),
        (CONVOLUTION, [(1, 8, 9, 9), (4, 8, 9, 9), (2, 8, 16, 12), (1, 8, 9, 9)]),
    ],
    ids=["attention", "convolution"],
)
def test_float_numbers_are_those_of_onnx_runtime(
    backend: Generator, built: Callable[..., Path], text: str, shapes: list[tuple[int, ...]]
) -> None:
    model = filled(text)
    reference, random = Session(model), np.random.default_rng(1)
    runner = backend.load(built(model), threads=2)
    for shape in shapes:
        feeds = {"x": 3 * random.standard_normal(shape).astype(np.float32)}
        assert_rounding_only(reference.run(feeds), runner.run(feeds).outputs)


def test_numbers_do_not_depend_on_the_lengths_before(backend: Generator, built: Callable[..., Path]) -> None:
    """With OpenVINO's generated kernels (2026.4) the second run of each pair is wrong by its own size."""
    model, random = filled(ATTENTION), np.random.default_rng(1)
    reference, folder = Session(model), built(model)
    for first, then in ((1, 16), (1, 32), (16, 32), (32, 1)):
        runner = backend.load(folder, threads=2)
        for length in (first, then):
            feeds = {"x": 3 * random.standard_normal((1, length, 16)).astype(np.float32)}
            assert_rounding_only(reference.run(feeds), runner.run(feeds).outputs)


def test_bfloat16_is_asked_for_by_name_only(built: Callable[..., Path]) -> None:
    if "BF16" not in import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    folder = built(filled(CONVOLUTION))
    for precision in Precision:
        session = OpenVinoSession(folder / "model.onnx", ["y"], threads=1, precision=precision)
        found = {layer.precision for layer in executed_layers(session) if layer.kind == "Convolution"}
        assert found == {str(precision)}


@pytest.mark.parametrize(
    ("text", "shape", "kinds"),
    [
        (CONVOLUTION, (2, 8, 9, 9), {"Convolution": 2, "FullyConnected": 1}),
        (ATTENTION, (2, 5, 16), {"FullyConnected": 3}),
    ],
    ids=["convolution", "attention"],
)
def test_products_that_quantize_8bit_converts_run_in_8_bits(
    built: Callable[..., Path], text: str, shape: tuple[int, ...], kinds: dict[str, int]
) -> None:
    """The executed graph says what was fused; the file only says what might be."""
    model = filled(text)
    inputs = np.random.default_rng(1).standard_normal((16, *shape[1:])).astype(np.float32)
    samples = Dataset({"x": inputs}, None, np.arange(16))
    step = Quantize8bit(settings=(Setting.STATIC,), min_matmul_elements=1, min_conv_elements=1)
    choices = step.propose(model, FactCache(model)).choices
    step.apply(model, FactCache(model), choices)
    step.fit(model, samples)
    assert len(choices) == sum(kinds.values())

    session = OpenVinoSession(built(model) / "model.onnx", ["y"], threads=1, precision=Precision.F32)
    session.run(["y"], {"x": inputs[:2]})

    layers = executed_layers(session)
    integer = Counter(layer.kind for layer in layers if layer.precision in EIGHT_BIT)
    assert {kind: integer[kind] for kind in kinds} == kinds
    assert "Convolution" not in {layer.kind for layer in layers if layer.precision not in EIGHT_BIT}


def test_threads_are_respected_and_not_tied_to_cores(built: Callable[..., Path]) -> None:
    before = os.sched_getaffinity(0)
    session = OpenVinoSession(
        built(filled(CONVOLUTION)) / "model.onnx", ["y"], threads=2, precision=Precision.F32
    )
    session.run(["y"], {"x": np.zeros((1, 8, 9, 9), np.float32)})

    assert session.compiled.get_property("INFERENCE_NUM_THREADS") <= 2
    assert session.compiled.get_property("NUM_STREAMS") == 1
    assert {frozenset(os.sched_getaffinity(int(task.name))) for task in TASKS.iterdir()} == {
        frozenset(before)
    }


def test_a_variant_may_use_fewer_threads(
    backend: Generator, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def note(file: Path, outputs: Sequence[str], *, threads: int, precision: Precision) -> object:
        del file, outputs, precision
        asked.append(threads)
        return object()

    monkeypatch.setattr("adapass.codegen.openvino.generator.OpenVinoSession", note)
    backend.load(built(plain(), threads=1), threads=4)
    backend.load(built(plain(), threads=0), threads=4)

    assert asked == [1, 4]


def test_outputs_outlive_the_next_run(backend: Generator, built: Callable[..., Path]) -> None:
    runner = backend.load(built(plain()), threads=1)

    first = runner.run({"x": X}).outputs["y"]
    kept = first.copy()
    runner.run({"x": 2 * X})

    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("feeds", [X[::2], np.asfortranarray(X)], ids=["strided", "columns first"])
def test_feeds_may_lie_in_memory_as_they_like(
    backend: Generator, built: Callable[..., Path], feeds: Array
) -> None:
    feeds.flags.writeable = False

    found = backend.load(built(plain()), threads=1).run({"x": feeds}).outputs["y"]

    assert_rounding_only(Session(plain()).run({"x": feeds}), {"y": found})


def test_a_plain_model_shares_its_file_with_the_portable_form(
    built: Callable[..., Path], cpu: Target
) -> None:
    ours = built(filled(ATTENTION))
    portable = ours.with_name("portable")
    portable.mkdir()
    generator("onnxruntime").build(filled(ATTENTION), cpu, portable, {})

    assert (ours / "model.onnx").read_bytes() == (portable / "model.onnx").read_bytes()


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_the_same_build_twice_gives_the_same_bytes(built: Callable[..., Path], lowering: str) -> None:
    first, second = (built(exiting(), lowering=lowering) for _ in range(2))

    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (first, second)]
    assert contents[0] == contents[1]


def test_an_artifact_is_loaded_like_any_other(
    built: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = artifact_of(plain(), built(plain()), tmp_path)
    folder = write_artifact(tmp_path / "m.adapass", contents)

    with load_artifact(folder, threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": X})["y"], Session(plain()).run({"x": X})["y"])
    assert not (folder / "openvino").exists()  # the model is there once

    monkeypatch.setattr("adapass.codegen.openvino.session.find_spec", nowhere)
    with pytest.raises(ArtifactError, match=r"needs generator 'openvino'.*pip install 'adapass\[openvino\]'"):
        load_artifact(folder, threads=1)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing; expected float32[B, 4]"),
        ({"x": X, "z": X}, "unknown input 'z'; the model takes x, adapass_exit_thresholds"),
        ({"x": X.astype(np.float64)}, "input 'x' is float64[3, 4], expected float32[B, 4]; convert it"),
        ({"x": X[:, :3]}, "axis 1 has 3 entries, expected 4"),
        ({"x": X, EXIT_THRESHOLDS: np.zeros(3, np.float32)}, "axis 0 has 3 entries, expected 2"),
    ],
)
@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_feeds_that_do_not_fit_are_named(
    backend: Generator, built: Callable[..., Path], feeds: Mapping[str, Array], message: str, lowering: str
) -> None:
    runner = backend.load(built(exiting(), lowering=lowering), threads=1)

    with pytest.raises(DataError) as error:
        runner.run(feeds)

    assert message in str(error.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_fails_inside_names_the_feeds(
    backend: Generator, built: Callable[..., Path], threads: int
) -> None:
    body = "g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }"
    runner = backend.load(built(of_text(body)), threads=threads)

    with pytest.raises(DataError, match=r"does not run on x float32\[3\], z float32\[2\]: "):
        runner.run({"x": np.zeros(3, np.float32), "z": np.zeros(2, np.float32)})


def test_whole_numbers_beyond_32_bits_are_refused(backend: Generator, built: Callable[..., Path]) -> None:
    runner = backend.load(built(of_text("g (int64[N] x) => (int64[N] y) { y = Neg(x) }")), threads=1)

    assert runner.run({"x": np.array([2**31 - 1])}).outputs["y"].tolist() == [1 - 2**31]
    for number in (2**31, -(2**40)):
        with pytest.raises(DataError, match=f"input 'x' holds {number}; OpenVINO computes .* in 32 bits"):
            runner.run({"x": np.array([1, number])})


@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_a_closed_runner_says_so(backend: Generator, built: Callable[..., Path], lowering: str) -> None:
    runner = backend.load(built(exiting(), lowering=lowering), threads=1)
    runner.close()
    runner.close()

    with pytest.raises(UsageError, match="closed"):
        runner.run({"x": X})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowering": "loop"}, "'loop' is not a valid Lowering"),
        ({"lowering": "none"}, "expected if, staged or masked for this model"),
        ({"lowering": "if", "precision": "f8"}, "'f8' is not a valid Precision"),
        ({"lowering": "if", "threads": -1}, "threads is -1, expected 0"),
        ({"spin": "never"}, "unknown openvino option 'spin'"),
    ],
)
def test_options_that_make_no_sense_are_named(
    built: Callable[..., Path], options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        built(exiting(), **options)


def test_a_missing_file_is_named(backend: Generator, built: Callable[..., Path]) -> None:
    for lowering, file in (("if", "model.onnx"), ("staged", "stage_1.onnx"), ("staged", "stages.json")):
        folder = built(exiting(), lowering=lowering)
        (folder / file).unlink()
        with pytest.raises(ArtifactError, match=f"{file} is missing"):
            backend.load(folder, threads=1)


def test_links_are_refused(backend: Generator, built: Callable[..., Path], tmp_path: Path) -> None:
    folder = built(exiting(), lowering="if")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")

    with pytest.raises(ArtifactError, match="not a regular file"):
        backend.load(folder, threads=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "has schema 99, expected 1"),
        ({"precision": "f8"}, "damaged at 'precision'"),
        ({"stages": 2}, "has 3 stages, expected 2"),
        (
            {"defaults": {"t": {"dtype": "float32", "shape": [2], "data": "AAAA"}}},
            "damaged at 'defaults': buffer size",
        ),
        ({"defaults": {"t": {"dtype": "object", "shape": [], "data": ""}}}, "type object is not a number"),
        ({"defaults": {"t": {"dtype": "float32", "shape": [1], "data": "?"}}}, "damaged at 'defaults'"),
    ],
)
def test_a_damaged_plan_is_refused(
    backend: Generator, built: Callable[..., Path], change: dict[str, object], message: str
) -> None:
    folder = built(exiting(), lowering="staged")
    plan = folder / "openvino.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))

    with pytest.raises(ArtifactError, match=message):
        backend.load(folder, threads=1)


def test_a_model_file_that_is_no_model_is_refused(backend: Generator, built: Callable[..., Path]) -> None:
    folder = built(plain())
    (folder / "model.onnx").write_bytes(b'<?xml version="1.0"?><net name="g" version="11"></net>')

    with pytest.raises(ArtifactError, match=r"model\.onnx is not a readable ONNX file"):
        backend.load(folder, threads=1)


def test_a_model_that_openvino_refuses_says_why(backend: Generator, built: Callable[..., Path]) -> None:
    folder = built(plain())
    (folder / "model.onnx").write_bytes(to_bytes(of_text(STRANGE)))

    with pytest.raises(
        ModelError, match=r"OpenVINO does not take the model: it has no operator strange\.Thing"
    ):
        backend.load(folder, threads=1)


def test_weights_in_a_second_file_stay_inside_the_folder(
    backend: Generator, built: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 16)
    model = filled(CONVOLUTION)
    folder = built(model)
    data = folder / "model.onnx.data"
    feeds = {"x": np.ones((1, 8, 9, 9), np.float32)}
    assert_rounding_only(Session(model).run(feeds), backend.load(folder, threads=1).run(feeds).outputs)
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")

    with pytest.raises(ArtifactError, match="is a link out of the folder"):
        backend.load(folder, threads=1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("g (float[B] x) => (float[B] y) { y = Abs(x) }", None),
        (STRANGE, "OpenVINO does not take the model: it has no operator strange.Thing"),
        ("g (double[B] x) => (double[B] y) { y = Abs(x) }", "input 'x' is DOUBLE"),
        ("g (string[B] x) => (string[B] y) { y = Identity(x) }", "input 'x' is STRING"),
        (
            "g (int64[B] x) => (int64[B] y) <int64 c = {5000000000}> { y = Add(x, c) }",
            "constant 'c' needs 64 bits",
        ),
        (
            "g (float[B] x) => (float[N] y) <int64[1] s = {0}, int64[1] e = {9223372036854775807}>"
            "{ y = Slice(x, s, e) }",
            None,
        ),
        ("g (float[B, 20000] x, float[20000] z) => (float[B, 20000] y) { y = Add(x, z) }", None),
    ],
    ids=["fine", "unknown operator", "float64", "text", "large number", "end of a slice", "wide"],
)
def test_what_openvino_cannot_do_is_declined(
    backend: Generator, cpu: Target, body: str, reason: str | None
) -> None:
    reasons = backend.supports(of_text(body), cpu).reasons

    assert len(reasons) == (0 if reason is None else reasons[0].startswith(reason) and len(reasons))
    assert reason is None or reasons[0].startswith(reason)


def test_exits_are_asked_about_by_their_standard_bodies(backend: Generator, cpu: Target) -> None:
    assert backend.supports(exiting(), cpu).ok


def test_large_defaults_are_declined(backend: Generator, cpu: Target) -> None:
    model = of_text("g (float[B, 20000] x, float[20000] z) => (float[B, 20000] y) { y = Add(x, z) }")
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.zeros(20000, np.float32), name="z")
    model.graph.register_initializer(value)

    assert backend.supports(model, cpu).reasons == ("input 'z' has a default of 80000 bytes, at most 65536",)


def test_only_for_processors(backend: Generator) -> None:
    assert backend.supports(plain(), load_target("cuda-h200")).reasons == (
        "openvino is used for processors only, and cuda-h200 is a gpu",
    )


def test_without_the_package_everything_else_goes_on(
    backend: Generator, built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = built(plain())
    monkeypatch.setattr("adapass.codegen.openvino.session.find_spec", nowhere)

    assert backend.available() == MISSING
    with pytest.raises(UsageError, match=r"pip install 'adapass\[openvino\]'"):
        backend.load(folder, threads=1)
    found = gather(plain(), Request(threads=1), None, None, tmp_path)
    assert [each.name for each in found.generators] == ["onnxruntime"]
    with pytest.raises(UsageError, match=r"openvino: OpenVINO is not installed: pip install"):
        gather(plain(), Request(threads=1, backend="openvino"), None, None, tmp_path)
