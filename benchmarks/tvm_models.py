"""What TVM compiles, and whether the numbers are right: operators, control flow and the trained models.

    python -m benchmarks.tvm_models [--only NAME ...]

Each case is built by the generator ``tvm`` (which checks every kernel itself) and held against ONNX Runtime
at batch 1, 3 and 32 and, where it has one, length 1, 7 and 64. What is declined is listed with its reason.
Nothing is timed but the build. Writes benchmarks/results/tvm_models.{json,txt}.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.errors import AdapassError
from adapass.execution import Session
from adapass.graph.load import load_model
from adapass.registry import generator
from adapass.target import load_target
from adapass.verification import compare_outputs
from benchmarks.harness import RESULTS, shared_folder, write_results

NAME = "tvm_models"
BATCHES = (1, 3, 32)
LENGTHS = (1, 7, 64)
MODELS = ("minilm-sst2", "minilm-agnews", "resnet20-cifar10", "resnet56-cifar10", "vit-cifar10")
# fmt: off
CASES = {
    "if": "g (float[B, 64] x, bool go) => (float[B, 64] y) { y = If(go) <then_branch = t () => "
    "(float[B, 64] a) { a = Tanh(x) }, else_branch = e () => (float[B, 64] c) { c = Neg(x) }> }",
    "if-layer-norm": "g (float[B, 64] x, bool go, float[64] s) => (float[B, 64] "
    "y) { y = If(go) <then_branch = "
    "t () => (float[B, 64] a) { a = LayerNormalization(x, s) }, else_branch = e () => (float[B, 64] c) "
    "{ c = Neg(x) }> }",
    "nonzero": "g (float[B] x) => (int64[1, N] y) { z = Relu(x) y = NonZero(z) }",
    "compress": "g (float[B, 8] x) => (float[B, N] y) <bool[8] c = {1, 0, 1, 1, 0, 0, 1, 0}> "
    "{ y = Compress<axis = 1>(x, c) }",
    "unique": "g (float[B] x) => (float[N] y) { y = Unique(x) }",
    "gather": "g (float[B, 16, 8] x, int64[N] i) => (float[B, N, 8] y) { y = Gather<axis = 1>(x, i) }",
    "slice-dynamic-end": "g (float[B, T, 8] x) => (float[B, N, 8] y) <int64[1] one = "
    "{1}, int64[1] two = {2}> "
    "{ s = Shape<start = 1, end = 2>(x) h = Div(s, two) e = Max(h, one) z = Sub(e, e) y = Slice(x, "
    "z, e, one) }",
    "where": "g (float[B, 8] x) => (float[B, 8] y) <float o = {0}> { c = Greater(x, o) n = Neg(x) "
    "y = Where(c, x, n) }",
    "topk": "g (float[B, 8] x) => (float[B, 3] y, int64[B, 3] i) <int64[1] k = {3}> { y, i = TopK(x, k) }",
    "topk-by-shape": "g (float[B, T] x) => (float[B, N] y, int64[B, N] i) <int64[1] two = {2}> "
    "{ s = Shape<start = 1, end = 2>(x) k = Div(s, two) y, i = TopK(x, k) }",
    "qdq-matmul": "g (float[B, 16] x, float[16, 8] w) => (float[B, 8] y) <float s = {0.05}, int8 z = {0}> "
    "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
    "matmul-integer": "g (float[B, 16] x, float[16, 8] w) => (int32[B, 8] y) "
    "<float s = {0.05}, int8 z = {0}> "
    "{ a, as, az = DynamicQuantizeLinear(x) b = QuantizeLinear(w, s, z) y = MatMulInteger(a, b, az) }",
    "loop": "g (float[B, 8] x, int64 n, bool go) => (float[B, 8] y) { y = Loop(n, go, x) <body = b (int64 i, "
    "bool c, float[B, 8] v) => (bool k, float[B, 8] w) { k = Identity(c) w = Tanh(v) }> }",
    "softmax": "g (float[B, T] x) => (float[B, T] y) { y = Softmax(x) }",
    "activations": "g (float[B, T] x) => (float[B, T] y) { a = Erf(x) b = Sigmoid(a) c = Tanh(b) d = Exp(c) "
    "e = Gelu(d) y = Relu(e) }",
    "reduce": "g (float[B, T, 8] x) => (float[B, 8] y) <int64[1] o = {1}> "
    "{ y = ReduceMean<keepdims = 0>(x, o) }",
    "batched-matmul": "g (float[B, T, 8] x) => (float[B, T, T] y) { t = Transpose<perm = [0, 2, 1]>(x) "
    "y = MatMul(x, t) }",
    "matmul-float64": "g (double[B, 8] x) => (double[B, B] y) { t = Transpose(x) y = MatMul(x, t) }",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one case."""

    name: str
    build_seconds: float
    runs: int
    worst: float
    """Largest error by the size of the output, over all runs."""
    reason: str
    """Why it was declined; empty when it was built."""


def measure(name: str, model: ir.Model) -> Row:
    backend, target = generator("tvm"), load_target("cpu")
    start = time.perf_counter()
    try:
        if reasons := backend.supports(model, target).reasons:
            return Row(name, time.perf_counter() - start, 0, float("nan"), reasons[0])
        with TemporaryDirectory(prefix="adapass-") as folder:
            variant = backend.variants(model, target, threads=1, batch=1)[0]
            start = time.perf_counter()
            backend.build(model, target, Path(folder), variant.options)
            seconds = time.perf_counter() - start
            runner = backend.load(Path(folder), threads=1)
            cases = list(feeds_of(model))
            reference = Session(model)
            found = [runner.run(case).outputs for case in cases]
            worst = compare_outputs([reference.run(case) for case in cases], found).worst()
    except AdapassError as error:
        return Row(name, time.perf_counter() - start, 0, float("nan"), str(error))
    return Row(name, seconds, len(cases), worst.relative_max, worst.note)


def feeds_of(model: ir.Model) -> Iterator[Feeds]:
    """Random inputs at every batch size and length the model leaves open."""
    random = np.random.default_rng(0)
    sizes = {dim.value for v in model.graph.inputs for dim in v.shape or () if not isinstance(dim, int)}
    lengths = LENGTHS if len(sizes) > 1 else LENGTHS[:1]
    for batch in BATCHES:
        for length in lengths:
            yield {value.name or "": _input(value, batch, length, random) for value in model.graph.inputs}


def _input(value: ir.Value, batch: int, length: int, random: np.random.Generator) -> Array:
    assert value.shape is not None
    assert value.dtype is not None
    shape = [
        dim if isinstance(dim, int) else (batch if axis == 0 else length)
        for axis, dim in enumerate(value.shape)
    ]
    dtype = value.dtype.numpy()
    if dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if dtype.kind in "iu":
        most = 1000 if value.name == "input_ids" else 1
        low = np.ones(shape, dtype) if value.name == "attention_mask" else random.integers(0, most, shape)
        return np.asarray(low, dtype)
    return np.asarray(random.standard_normal(shape), dtype)


def models() -> Iterator[tuple[str, ir.Model]]:
    for name, text in CASES.items():
        yield name, _filled(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}'))
    for name in MODELS:
        if (file := shared_folder() / "models" / f"{name}.onnx").is_file():
            yield name, load_model(file)


def _filled(model: ir.Model) -> ir.Model:
    """Inputs called ``w`` and ``s`` without open dimensions become weights."""
    random = np.random.default_rng(0)
    for value in list(model.graph.inputs):
        if value.name in ("w", "s") and value.shape is not None:
            weight = random.standard_normal(value.shape.numpy()).astype(np.float32)
            value.const_value = ir.tensor(weight, name=value.name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
    return model


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'case':20} {'build s':>8} {'runs':>5} {'error':>9}  declined because"]
    lines += [
        f"{row.name:20} {row.build_seconds:8.1f} {row.runs:5} {row.worst:9.2g}  {row.reason[:120]}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows: list[Row] = []
    for name, model in models():
        if given.only is None or name in given.only:
            rows.append(measure(name, model))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    write_results(
        NAME, {"rows": [asdict(row) for row in rows]}, f"{NAME}\n\n{table(rows)}", folder=given.results
    )


if __name__ == "__main__":
    main()
