"""The TVM generator: numbers, exits that are lazy, wrong kernels refused, and inputs that cannot crash it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from scipy import special

from adapass.codegen.tvm.compile import machine
from adapass.codegen.tvm.generator import Tvm
from adapass.codegen.tvm.kernels import product
from adapass.codegen.tvm.kernels.kernel import Kernel, vectors_of
from adapass.codegen.tvm.kernels.maths import UNARY
from adapass.codegen.tvm.library import compiler, runtime, use_threads
from adapass.codegen.tvm.plan import PLAN_FILE, read_plan
from adapass.codegen.tvm.schedule import refuse_unscheduled, schedule
from adapass.codegen.tvm.session import TvmSession
from adapass.codegen.tvm.trust import ALLOW
from adapass.driver.material import gather
from adapass.driver.request import Request
from adapass.errors import ArtifactError, DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.generator import Generator
from adapass.ops import EXIT_INDEX, EXIT_SELECT, EXIT_THRESHOLDS, add_function
from adapass.registry import generator
from adapass.rewrite import Exactness
from adapass.target import Target, load_target
from adapass.verification import compare_outputs
from tests.lowering.conftest import feed, make

pytest.importorskip("tvm_ffi", reason="TVM is not installed: pip install 'adapass[tvm]'")
pytestmark = pytest.mark.filterwarnings("ignore")

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
g (float[B, 8, 9, 9] x, float[16, 8, 3, 3] w, float[16] b,
   float[16, 16, 3, 3] w2, float[16] b2, float[16, 80] w3) => (float[B, 80] y)
{
    c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)
    r = Relu(c)
    c2 = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    a = Add(c2, r)
    m = GlobalAveragePool(a)
    f = Flatten(m)
    y = MatMul(f, w3)
}
"""

LOOKUP = """
<ir_version: 10, opset_import: ["" : 20]>
g (int64[B, S] ids) => (float[B, S, 2] y) <float[3, 2] table = {1, 2, 3, 4, 5, 6}>
{ y = Gather(table, ids) }
"""

POSITIONS = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, T, 2] x, float[1, 64, 2] table) => (float[B, T, 2] y)
<int64[1] zero = {0}, int64[1] one = {1}>
{ t = Shape<start = 1, end = 2>(x) p = Slice(table, zero, t, one) y = Add(x, p) }
"""

BRANCHING = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 64] x, bool go, float[64, 64] w) => (float[B, 64] y)
{
    y = If(go) <
        then_branch = t () => (float[B, 64] a) { h = MatMul(x, w) a = Tanh(h) },
        else_branch = e () => (float[B, 64] c) { c = Neg(x) }
    >
}
"""

X = np.array([[1, 0, 0, 0], [5, 0, 0, 0], [9, 0, 0, 0]], np.float32)


def plain() -> ir.Model:
    return ir.from_onnx_text(PLAIN)


def exiting() -> ir.Model:
    model = ir.from_onnx_text(EXITING)
    add_function(model, EXIT_SELECT)
    return model


def filled(text: str, keep: int = 1) -> ir.Model:
    """The model with random weights in place of all inputs but the first ones."""
    random = np.random.default_rng(0)
    model = ir.from_onnx_text(text)
    for value in list(model.graph.inputs)[keep:]:
        assert value.shape is not None
        weight = random.standard_normal(value.shape.numpy()) / np.sqrt(value.shape.numpy()[0])
        value.const_value = ir.tensor(weight.astype(np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def assert_rounding_only(expected: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    worst = compare_outputs([expected], [found]).worst()
    assert worst.within(Exactness.ROUNDING, 2e-5), worst


@pytest.fixture
def backend() -> Generator:
    return generator("tvm")


@pytest.fixture(scope="session")
def cpu() -> Target:
    return load_target("cpu")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPASS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def built(backend: Generator, cpu: Target, tmp_path: Path) -> Callable[..., Path]:
    def build(model: ir.Model, **options: str | int) -> Path:
        folder = tmp_path / f"build-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        backend.build(model, cpu, folder, options)
        return folder

    return build


@pytest.fixture(scope="module")
def plain_build(tmp_path_factory: pytest.TempPathFactory, cpu: Target) -> Path:
    """PLAIN, built once."""
    folder = tmp_path_factory.mktemp("plain")
    generator("tvm").build(plain(), cpu, folder, {})
    return folder


@pytest.fixture
def plain_folder(plain_build: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(plain_build, tmp_path / "plain"))


def test_is_registered_and_available(backend: Generator) -> None:
    assert isinstance(backend, Tvm)
    assert backend.available() is None


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (ATTENTION, [(1, 1, 16), (1, 7, 16), (3, 7, 16), (32, 64, 16), (1, 7, 16)]),
        (CONVOLUTION, [(1, 8, 9, 9), (3, 8, 9, 9), (32, 8, 9, 9)]),
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


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_runs_and_says_which_exit_each_sample_took(
    backend: Generator, built: Callable[..., Path], lowering: str
) -> None:
    runner = backend.load(built(exiting(), lowering=lowering), threads=2)

    for thresholds, exits in (([15, 12], [2, 1, 0]), ([-1, -1], [0, 0, 0]), ([np.inf, np.inf], [2, 2, 2])):
        found = runner.run({"x": X, EXIT_THRESHOLDS: np.array(thresholds, np.float32)})
        assert list(found.outputs) == ["y"]
        assert found.exits is not None
        assert found.exits.tolist() == exits
        assert found.outputs["y"][:, 0].tolist() == [
            (2 + e) * x for e, x in zip(exits, [1, 5, 9], strict=True)
        ]


def test_the_default_thresholds_are_those_of_the_model(
    backend: Generator, built: Callable[..., Path]
) -> None:
    model = exiting()
    limits = np.array([np.inf, 12], np.float32)
    model.graph.initializers[EXIT_THRESHOLDS].const_value = ir.tensor(limits, name=EXIT_THRESHOLDS)

    found = backend.load(built(model, lowering="if"), threads=1).run({"x": X})

    assert found.exits is not None
    assert found.exits.tolist() == [2, 1, 1]


@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_exits_of_a_transformer_are_taken_as_defined(
    backend: Generator,
    built: Callable[..., Path],
    make: Callable[[str, int], ir.Model],
    feed: Callable[[ir.Model, int, int], dict[str, Array]],
    lowering: str,
) -> None:
    model = make("tokens", 2)
    definition = Session(model)
    runner = backend.load(built(model, lowering=lowering), threads=1)
    for batch, threshold in ((1, np.inf), (5, 0.45), (5, -np.inf)):
        feeds = {**feed(model, batch, 1), EXIT_THRESHOLDS: np.full(2, threshold, np.float32)}
        expected, found = definition.run(feeds), runner.run(feeds)
        assert found.exits is not None
        assert found.exits.tolist() == expected.pop(EXIT_INDEX).tolist()
        assert_rounding_only(expected, found.outputs)


def test_a_branch_that_is_not_taken_runs_nothing(built: Callable[..., Path]) -> None:
    folder = built(filled(BRANCHING, keep=2))
    session = TvmSession(folder / "model.so", read_plan(folder).libraries[0], threads=1)
    called: list[str] = []
    session.observe(lambda name, _: called.append(name))
    x = np.ones((3, 64), np.float32)

    (taken,) = session.run(["y"], {"x": x, "go": np.array(True)})
    with_product = [name for name in called if name.startswith("product_64x64")]
    called.clear()
    (left,) = session.run(["y"], {"x": x, "go": np.array(False)})

    assert len(with_product) == 1
    assert not [name for name in called if name.startswith("product_64x64")]
    assert not np.array_equal(taken, left)
    np.testing.assert_array_equal(left, -x)


def test_a_wrong_kernel_is_refused_and_named(
    built: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cpu: Target
) -> None:
    """The tile of the last rows is left out: right for many shapes, wrong for the others."""
    right = product.rows_of

    def forgetful(body: object, first: object, count: object, height: int, tile: product.Tile) -> None:
        def half(row: object, rows: int) -> None:
            if rows > 1:
                tile(row, rows)

        right(body, first, count, height, half)  # type: ignore[arg-type]

    monkeypatch.setattr(product, "rows_of", forgetful)
    monkeypatch.setattr(product, "row_product", product.row_product.__wrapped__)

    with pytest.raises(ModelError, match=r"refused: wrong numbers from kernel product_4x2 \(off by"):
        built(plain())


@pytest.mark.parametrize(
    "x",
    [
        X[::2],
        np.asfortranarray(X),
        X[::-1],
        np.frombuffer(bytes(4) + X.tobytes(), np.float32)[1:].reshape(3, 4),
    ],
    ids=["strided", "columns first", "backwards", "unaligned and read-only"],
)
def test_feeds_may_lie_in_memory_as_they_like(
    backend: Generator, plain_folder: Path, x: npt.NDArray[np.float32]
) -> None:
    found = backend.load(plain_folder, threads=1).run({"x": x}).outputs["y"]

    assert_rounding_only(Session(plain()).run({"x": x}), {"y": found})


def test_every_alignment_works(backend: Generator, plain_folder: Path) -> None:
    runner = backend.load(plain_folder, threads=1)
    memory = np.zeros(64 + 16 * 3 + 64, np.uint8)
    for start in range(64):
        x = memory[start : start + 48].view(np.float32).reshape(3, 4)
        assert not runner.run({"x": x}).outputs["y"].any()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.float64), r"input 'x' is float64\[3, 4\], expected float32"),
        (X[:, :3], r"axis 1 has 3 entries, expected 4"),
        (X[0], r"expected float32\[B, 4\]; reshape"),
        (X[:0], r"input 'x' is empty"),
    ],
    ids=["type", "size", "rank", "empty"],
)
def test_wrong_feeds_are_data_errors(backend: Generator, plain_folder: Path, x: Array, message: str) -> None:
    runner = backend.load(plain_folder, threads=1)

    with pytest.raises(DataError, match=message):
        runner.run({"x": x})


def test_the_library_itself_refuses_other_types_and_shapes(plain_folder: Path) -> None:
    """Behind the check of the feeds the virtual machine checks again: stages feed each other."""
    folder = plain_folder
    session = TvmSession(folder / "model.so", read_plan(folder).libraries[0], threads=1)

    for x in (X.astype(np.float64), X[:, :3], X[0]):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            session.run(["y"], {"x": x})


@pytest.mark.parametrize("wrong", [3, -4, 2**40, -(2**62)])
def test_an_index_outside_is_an_error_that_names_the_reader(
    backend: Generator, built: Callable[..., Path], wrong: int
) -> None:
    runner = backend.load(built(ir.from_onnx_text(LOOKUP)), threads=1)
    ids = np.array([[0, 1], [-1, -3]], np.int64)

    assert runner.run({"ids": ids}).outputs["y"][..., 0].tolist() == [[1, 3], [5, 1]]
    ids[1, 0] = wrong
    with pytest.raises(DataError, match="Gather 'y' reads outside"):
        runner.run({"ids": ids})


def test_a_length_behind_the_table_of_positions_is_an_error(
    backend: Generator, built: Callable[..., Path]
) -> None:
    model = filled(POSITIONS)
    runner = backend.load(built(model), threads=1)

    whole = {"x": np.zeros((2, 64, 2), np.float32)}
    assert_rounding_only(Session(model).run(whole), runner.run(whole).outputs)
    with pytest.raises(DataError, match="Slice 'p' reads outside"):
        runner.run({"x": np.zeros((2, 65, 2), np.float32)})


def test_outputs_outlive_the_next_run(backend: Generator, plain_folder: Path) -> None:
    runner = backend.load(plain_folder, threads=1)

    first = runner.run({"x": X}).outputs["y"]
    kept = first.copy()
    runner.run({"x": 2 * X})

    np.testing.assert_array_equal(first, kept)


def test_threads_are_set_in_one_place() -> None:
    for count in (1, 2, 1):
        use_threads(count)
        assert runtime().get_global_func("runtime.NumThreads")() == count


def test_changed_machine_code_is_not_loaded(backend: Generator, plain_folder: Path) -> None:
    folder = plain_folder
    code = bytearray((folder / "model.so").read_bytes())
    code[len(code) // 2] ^= 1
    (folder / "model.so").write_bytes(code)

    with pytest.raises(ArtifactError, match="is damaged: its hash"):
        backend.load(folder, threads=1)


def test_machine_code_from_elsewhere_runs_only_when_allowed(
    backend: Generator, plain_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = plain_folder
    monkeypatch.setenv("ADAPASS_CACHE", str(tmp_path / "someone-else"))

    with pytest.raises(ArtifactError, match="not built by this user here"):
        backend.load(folder, threads=1)
    monkeypatch.setenv(ALLOW, "1")
    assert backend.load(folder, threads=1).run({"x": X}).outputs["y"].shape == (3, 2)


def test_code_for_another_processor_is_not_loaded(backend: Generator, plain_folder: Path) -> None:
    folder = plain_folder
    plan = json.loads((folder / PLAN_FILE).read_text())
    (folder / PLAN_FILE).write_text(json.dumps({**plan, "isa": [*plan["isa"], "avx2048"]}))

    with pytest.raises(ArtifactError, match="this one has no avx2048"):
        backend.load(folder, threads=1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("g (float[B] x) => (float[B] y) { z = strange.Thing(x) y = Abs(z) }", "no operator strange.Thing"),
        (
            "g (float[N] x) => (float[M] y) { y, i, j, c = Unique(x) }",
            "operator Unique .* a call into Python",
        ),
        (
            "g (float[N] x, int64[1] n) => (float[M] y) { y = Expand(x, n) }",
            "Expand 'y' is known only when it runs",
        ),
        ("g (string[N] x) => (string[N] y) { y = Identity(x) }", "input 'x' is STRING"),
    ],
)
def test_what_tvm_cannot_do_is_declined(backend: Generator, cpu: Target, body: str, reason: str) -> None:
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20, "strange" : 1]>\n{body}')

    (found, *_) = backend.supports(model, cpu).reasons

    assert re.search(reason, found)


def test_other_devices_are_declined(backend: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name, why in (("cuda-h200", "for processors only"), ("aarch64-generic", "no aarch64-linux-gnu-g++")):
        (reason,) = backend.supports(plain(), load_target(name)).reasons
        assert why in reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spin": "never"}, "unknown tvm option 'spin'"),
        ({"lowering": "if"}, "expected none for this model"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_wrong_options_are_named(
    built: Callable[..., Path], options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        built(plain(), **options)


def test_a_run_leaves_it_out_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPASS_CACHE", str(tmp_path / "cache"))

    automatic = gather(plain(), Request(threads=1), None, None, tmp_path).generators
    asked = gather(plain(), Request(threads=1, backend="tvm"), None, None, tmp_path).generators

    assert "tvm" not in [each.name for each in automatic]
    assert [each.name for each in asked] == ["tvm"]


def test_kernels_are_equal_when_their_names_are(cpu: Target) -> None:
    made: Kernel = product.row_product(4, 2, (), vectors_of(cpu))
    assert made is product.row_product(4, 2, (), vectors_of(cpu))


def test_a_heavy_loop_nest_without_a_schedule_is_refused() -> None:
    te, tvm = compiler("tvm.te"), compiler()
    a, b = (te.placeholder((256, 256), "float32", name=name) for name in "ab")
    k = te.reduce_axis((0, 256))

    def entry(i: Any, j: Any) -> Any:
        return te.sum(a[i, k] * b[k, j], axis=[k])

    summed = te.compute((256, 256), entry)
    naive = tvm.IRModule({"naive": te.create_prim_func([a, b, summed])})

    with pytest.raises(ModelError, match=r"no schedule for naive .* number by number on one core"):
        refuse_unscheduled(naive)
    refuse_unscheduled(schedule(naive, 16))


@pytest.mark.parametrize(
    ("name", "exact", "bound"),
    [("exp", np.exp, 1.3e-7), ("tanh", np.tanh, 5e-7), ("erf", special.erf, 4e-7)],
)
def test_functions_of_one_number_are_right_for_floats_of_every_size(
    name: str, exact: Callable[[Array], Array], bound: float
) -> None:
    """Every 4099th float32; infinities, NaN and the numbers below the normal ones are among them."""
    te, tvm = compiler("tvm.te"), compiler()
    x = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    data = te.placeholder((len(x),), "float32", name="x")

    def entry(i: Any) -> Any:
        return UNARY[name](data[i])

    result = te.compute(data.shape, entry)
    function = te.create_prim_func([data, result]).with_attr("global_symbol", "main")
    out = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(function, target=machine(load_target("cpu")))["main"](tvm.runtime.tensor(x), out)

    with np.errstate(all="ignore"):
        expected = np.asarray(exact(x.astype(np.float64)), np.float64)
        off = np.abs(out.numpy() - expected) / np.maximum(1.0, np.abs(expected))
        single = expected.astype(np.float32)
    same = (out.numpy() == single) | (np.isnan(out.numpy()) & np.isnan(single))
    assert (same | (off <= bound)).all()
