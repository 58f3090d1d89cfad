"""The ONNX Runtime generator: variants, builds, and errors that name what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.codegen.onnxruntime.session import CUDA, providers
from adapass.errors import ArtifactError, DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.generator import Generator
from adapass.graph.check import check_structure
from adapass.graph.load import load_model
from adapass.graph.save import to_bytes
from adapass.ops import EXIT_SELECT, EXIT_THRESHOLDS, add_function
from adapass.registry import generator
from adapass.target import Target, load_target

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

X = np.array([[1, 0, 0, 0], [5, 0, 0, 0], [9, 0, 0, 0]], np.float32)


def plain() -> ir.Model:
    return ir.from_onnx_text(PLAIN)


def exiting() -> ir.Model:
    model = ir.from_onnx_text(EXITING)
    add_function(model, EXIT_SELECT)
    return model


def strange() -> ir.Model:
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20, "strange" : 1]>\n'
        "g (float[B] x) => (float[B] y) { z = strange.Thing(x) y = Abs(z) }"
    )


def wide() -> ir.Model:
    """The plain model with a weight of 32 kB."""
    model = plain()
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.zeros((4, 2000), np.float32), name="w")
    weight.shape, model.graph.outputs[0].shape = ir.Shape([4, 2000]), ir.Shape(["B", 2000])
    return model


@pytest.fixture
def backend() -> Generator:
    return generator("onnxruntime")


@pytest.fixture(scope="session")
def cpu() -> Target:
    return load_target("x86-64-generic")


@pytest.fixture(scope="session")
def gpu() -> Target:
    return load_target("cuda-h200")


@pytest.fixture
def built(backend: Generator, cpu: Target, tmp_path: Path) -> Callable[..., Path]:
    def build(model: ir.Model, **options: str | int) -> Path:
        folder = tmp_path / f"build-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        backend.build(model, cpu, folder, options)
        return folder

    return build


def test_is_registered_and_available(backend: Generator) -> None:
    assert isinstance(backend, OnnxRuntime)
    assert backend.available() is None


def test_variants_without_exits_are_thread_settings(backend: Generator, cpu: Target) -> None:
    names = [variant.name for variant in backend.variants(plain(), cpu, threads=2, batch=1)]

    assert names == ["plain", "plain-quiet", "plain-1-thread"]


def test_one_thread_needs_no_thread_settings(backend: Generator, cpu: Target) -> None:
    assert [v.name for v in backend.variants(plain(), cpu, threads=1, batch=1)] == ["plain"]
    assert [v.name for v in backend.variants(exiting(), cpu, threads=1, batch=1)] == ["if", "staged"]


def test_variants_with_exits_begin_with_the_portable_one(backend: Generator, cpu: Target) -> None:
    variants = backend.variants(exiting(), cpu, threads=2, batch=1)

    assert [v.options["lowering"] for v in variants] == ["if"] * 3 + ["staged"] * 3
    assert variants[0].name == "if"


def test_stages_never_spin_against_each_other(backend: Generator, cpu: Target) -> None:
    staged = [
        v for v in backend.variants(exiting(), cpu, threads=8, batch=1) if v.options["lowering"] == "staged"
    ]

    assert {v.options["spin"] for v in staged} == {"running", "never"}


def test_only_masked_compute_where_samples_cannot_leave(backend: Generator, cpu: Target) -> None:
    text = EXITING.replace("end = Add(b, x)", "mean = ReduceMean(b, i0_1)\n end = Sub(b, mean)")
    model = ir.from_onnx_text(text.replace("int64[1] one = {1}", "int64[1] one = {1}, int64[1] i0_1 = {0}"))
    add_function(model, EXIT_SELECT)

    assert [v.name for v in backend.variants(model, cpu, threads=1, batch=4)] == ["masked"]


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
    found = backend.load(built(exiting(), lowering=lowering), threads=1).run({"x": X * 100})

    assert found.exits is not None
    assert found.exits.tolist() == [0, 0, 0]
    assert backend.load(built(exiting(), lowering=lowering), threads=1).run({"x": X}).exits is not None


def test_every_variant_gives_the_numbers_of_the_model(
    backend: Generator, cpu: Target, built: Callable[..., Path]
) -> None:
    feeds = {"x": X, EXIT_THRESHOLDS: np.array([15, 12], np.float32)}
    expected = Session(exiting()).run(feeds)
    for variant in backend.variants(exiting(), cpu, threads=2, batch=1):
        runner = backend.load(built(exiting(), **variant.options), threads=2)
        np.testing.assert_array_equal(runner.run(feeds).outputs["y"], expected["y"])
        runner.close()


def test_a_model_without_exits_has_no_exit_indices(backend: Generator, built: Callable[..., Path]) -> None:
    found = backend.load(built(plain()), threads=1).run({"x": X})

    assert found.exits is None
    np.testing.assert_array_equal(found.outputs["y"], X @ np.arange(1, 9, dtype=np.float32).reshape(4, 2))


@pytest.mark.parametrize("lowering", ["if", "masked"])
def test_the_file_runs_without_adapass(built: Callable[..., Path], lowering: str) -> None:
    model = load_model(built(exiting(), lowering=lowering) / "model.onnx")
    check_structure(model)

    assert not model.functions
    assert list(model.opset_imports) == [""]


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_the_same_build_twice_gives_the_same_bytes(built: Callable[..., Path], lowering: str) -> None:
    first, second = (built(exiting(), lowering=lowering) for _ in range(2))

    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (first, second)]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing; expected float32[B, 4]"),
        ({"x": X, "z": X}, "unknown input 'z'; the model takes x, adapass_exit_thresholds"),
        ({"x": X.astype(np.float64)}, "input 'x' is float64[3, 4], expected float32[B, 4]; convert it"),
        ({"x": X[0]}, "input 'x' is float32[4], expected float32[B, 4]; reshape it"),
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


def test_symbolic_sizes_must_agree(backend: Generator, built: Callable[..., Path]) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (float[B, 4] a, float[B, 4] b) => (float[B, 4] y) { y = Add(a, b) }"
    )
    runner = backend.load(built(model), threads=1)

    with pytest.raises(DataError, match="axis 0 has 2 entries, expected 3, as many as input 'a'"):
        runner.run({"a": X, "b": X[:2]})


def test_a_run_that_fails_inside_names_the_feeds(backend: Generator, built: Callable[..., Path]) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (float[N] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"
    )
    runner = backend.load(built(model), threads=1)

    with pytest.raises(DataError, match=r"does not run on x float32\[3\], i int64\[1\]"):
        runner.run({"x": np.zeros(3, np.float32), "i": np.array([7])})


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
        ({"lowering": "if", "spin": "madly"}, "'madly' is not a valid Spin"),
        ({"lowering": "if", "threads": -1}, "threads is -1, expected 0"),
        ({"colour": "red"}, "unknown onnxruntime option 'colour'"),
    ],
)
def test_options_that_make_no_sense_are_named(
    built: Callable[..., Path], options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        built(exiting(), **options)


def test_a_model_without_exits_cannot_be_staged(built: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="expected none for this model"):
        built(plain(), lowering="staged")


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
        ({"lowering": "loop"}, "damaged at 'lowering'"),
        ({"stages": 0}, "damaged at 'stages'"),
        ({"stages": 2}, "has 3 stages, expected 2"),
    ],
)
def test_a_damaged_plan_is_refused(
    backend: Generator, built: Callable[..., Path], change: dict[str, object], message: str
) -> None:
    folder = built(exiting(), lowering="staged")
    plan = folder / "onnxruntime.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))

    with pytest.raises(ArtifactError, match=message):
        backend.load(folder, threads=1)


def test_a_plan_of_absurd_size_is_refused(backend: Generator, built: Callable[..., Path]) -> None:
    folder = built(plain())
    with (folder / "onnxruntime.json").open("ab") as file:
        file.write(b" " * 5_000_000)

    with pytest.raises(ArtifactError, match="expected at most"):
        backend.load(folder, threads=1)


def test_a_model_file_that_is_no_model_is_refused(backend: Generator, built: Callable[..., Path]) -> None:
    folder = built(plain())
    (folder / "model.onnx").write_bytes(b"nonsense")

    with pytest.raises(ArtifactError, match=r"model\.onnx is not a readable ONNX file"):
        backend.load(folder, threads=1)


def test_a_model_that_onnx_runtime_refuses_says_why(backend: Generator, built: Callable[..., Path]) -> None:
    folder = built(plain())
    (folder / "model.onnx").write_bytes(to_bytes(strange()))

    with pytest.raises(ModelError, match=r"ONNX Runtime does not take the model: .*strange"):
        backend.load(folder, threads=1)


def test_weights_in_a_second_file_stay_inside_the_folder(
    backend: Generator, built: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapass.graph.save.EMBEDDED_BYTES", 16)
    folder = built(wide())
    data = folder / "model.onnx.data"
    assert backend.load(folder, threads=1).run({"x": X}).outputs["y"].shape == (3, 2000)
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")

    with pytest.raises(ArtifactError, match="is a link out of the folder"):
        backend.load(folder, threads=1)


def test_supports_what_onnx_runtime_runs(backend: Generator, cpu: Target) -> None:
    assert backend.supports(plain(), cpu).ok
    assert backend.supports(exiting(), cpu).ok


def test_names_the_operator_it_does_not_know(backend: Generator, cpu: Target) -> None:
    assert backend.supports(strange(), cpu).reasons == (
        "onnxruntime has no kernel for operator strange.Thing",
    )


def test_asks_without_copying_large_weights(
    backend: Generator, cpu: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wide()
    large = model.graph.initializers["w"].const_value
    sizes: list[int] = []

    def note(data: bytes, **options: object) -> None:
        del options
        sizes.append(len(data))

    monkeypatch.setattr("adapass.codegen.onnxruntime.support.open_session", note)

    assert backend.supports(model, cpu).ok
    assert sizes
    assert sizes[0] < 1000
    assert model.graph.initializers["w"].const_value is large


def test_a_gpu_target_is_built_without_a_gpu(backend: Generator, gpu: Target, tmp_path: Path) -> None:
    if CUDA in providers(gpu=True):
        pytest.skip("ONNX Runtime can use a GPU here")
    options = backend.variants(exiting(), gpu, threads=2, batch=1)[0].options
    backend.build(exiting(), gpu, tmp_path, options)

    assert not backend.device_present(gpu)
    assert json.loads((tmp_path / "onnxruntime.json").read_text())["gpu"] is True
    assert backend.load(tmp_path, threads=1).run({"x": X}).exits is not None


def test_only_this_library_decides_on_thread_pools() -> None:
    """A process-wide pool would break every other session of the process."""
    folder = Path(__file__).parent.parent.parent / "codegen" / "onnxruntime"
    calls = [file.name for file in folder.glob("*.py") if "set_global_thread_pool_sizes(" in file.read_text()]

    assert not calls
