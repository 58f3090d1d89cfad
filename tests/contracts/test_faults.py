"""Fault injection over every registered pass: whatever is damaged, the pipeline names the pass that did it.

Each pass gets a small network in which it fires, runs, and then has its result damaged in every way
at several places. A pass that is new and has no network here fails the first test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Feeds, Samples
from adapass.graph.text import parse
from adapass.pipeline import PassError, Pipeline
from adapass.registry import pass_names
from adapass.rewrite import Pass
from adapass.testing.faults import Fault, corrupting
from adapass.text_form import parse_pass

PICKS = 3

# The pattern turns x [N, 3, 8, 8] into z of the same shape; what follows offers places for every fault.
NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3, 8, 8] x) => (float[N, 6] y)
<float[4, 3, 3, 3] cw = {CONV}, float[4] cb = {1, -1, 2, -2},
 float[4, 6] mw = {MATMUL}, float[6] mb = {1, 2, 3, 4, 5, 6}
 CONSTANTS>
{
PATTERN
    tail_c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (z, cw, cb)
    tail_r = Relu (tail_c)
    tail_t = Transpose <perm = [0, 2, 3, 1]> (tail_r)
    tail_m = ReduceMean <keepdims = 0> (tail_t, tail_axes)
    tail_p = MatMul (tail_m, mw)
    y = Add (tail_p, mb)
}
"""

PATTERNS: Mapping[str, tuple[str, str]] = {
    "convolve-shortcuts": (
        "s = Slice (x, start, end, axes, steps)\n p = Pad (s, pads)\n u = Concat <axis = 2> (p, p)\n"
        " v = Concat <axis = 3> (u, u)\n z = Conv <kernel_shape = [1, 1]> (v, pw)",
        "int64[2] start = {0, 0}, int64[2] end = {8, 8}, int64[2] axes = {2, 3}, int64[2] steps = {2, 2},"
        " int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0},"
        " float[3, 5, 1, 1] pw = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3}",
    ),
    "equalize-channels": (
        "h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)\n r = Relu (h)\n"
        " z = Conv <kernel_shape = [1, 1]> (r, pv)",
        "float[4, 3, 3, 3] pw = {CONV}, float[3, 4, 1, 1] pv = {1, 20, 3, 0.1, 4, 50, 6, 0.2, 7, 80, 9, 0.3}",
    ),
    "quantize-log": (
        "p = Softmax <axis = -1> (x)\n t = Transpose <perm = [0, 1, 3, 2]> (x)\n z = MatMul (p, t)",
        "",
    ),
    "fold-batch-norm": (
        "h = Conv <kernel_shape = [1, 1]> (x, pw)\n z = BatchNormalization (h, bs, bb, bm, bv)",
        "float[3, 3, 1, 1] pw = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] bs = {1, 2, 3},"
        " float[3] bb = {3, 2, 1}, float[3] bm = {0.5, 0.25, 0.125}, float[3] bv = {1, 2, 4}",
    ),
    "fold-constants": ("k = Add (k1, k2)\n z = Mul (x, k)", "float[1] k1 = {1}, float[1] k2 = {2}"),
    "fold-output-scale": (
        "h = Conv <kernel_shape = [1, 1]> (x, pw)\n z = Mul (h, k)",
        "float[3, 3, 1, 1] pw = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[1] k = {3}",
    ),
    "fuse-clips": ("h = Relu (x)\n z = Min (h, k)", "float k = {2}"),
    "fuse-gelu": (
        "a = Div (x, k)\n e = Erf (a)\n p = Add (e, one)\n q = Mul (x, p)\n z = Mul (q, half)",
        "float k = {1.4142135}, float one = {1}, float half = {0.5}",
    ),
    "fuse-layer-norm": (
        "m = ReduceMean (x, ax)\n d = Sub (x, m)\n s = Mul (d, d)\n v = ReduceMean (s, ax)\n "
        "e = Add (v, eps)\n r = Sqrt (e)\n n = Div (d, r)\n g = Mul (n, gain)\n z = Add (g, bias)",
        "int64[1] ax = {-1}, float eps = {0.00001}, float[8] gain = {1, 2, 3, 4, 5, 6, 7, 8},"
        " float[8] bias = {8, 7, 6, 5, 4, 3, 2, 1}",
    ),
    "fuse-pad-into-conv": (
        "h = Pad (x, pads)\n z = Conv <kernel_shape = [3, 3]> (h, pw)",
        "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float[3, 3, 3, 3] pw = {"
        + ", ".join(["1", "-2", "3"] * 27)
        + "}",
    ),
    "merge-casts": ("h = Cast <to = 11> (x)\n z = Cast <to = 1> (h)", ""),
    "merge-common-subexpressions": ("a = Relu (x)\n b = Relu (x)\n z = Add (a, b)", ""),
    "merge-layout-chains": (
        "a = Transpose <perm = [0, 2, 1, 3]> (x)\n b = Transpose <perm = [0, 1, 3, 2]> (a)\n"
        " c = Relu (b)\n z = Transpose <perm = [0, 3, 1, 2]> (c)",
        "",
    ),
    "merge-parallel-matmuls": (
        "a = MatMul (x, qa)\n b = MatMul (x, qb)\n c = MatMul (x, qc)\n d = Mul (a, b)\n z = Add (d, c)",
        ", ".join(
            f"float[8, 8] q{name} = {{" + ", ".join(str((7 * i * k) % 5 - 2) for i in range(64)) + "}"
            for k, name in enumerate("abc", start=1)
        ),
    ),
    "remove-dead-code": ("dead = Relu (x)\n z = Abs (x)", ""),
    "remove-identities": ("h = Identity (x)\n z = Abs (h)", ""),
    "remove-redundant-expands": (
        "h = Expand (k, shape)\n z = Mul (x, h)",
        "float[8] k = {1, 2, 3, 4, 5, 6, 7, 8}, int64[2] shape = {8, 8}",
    ),
    "remove-redundant-scatters": (
        "u = Relu (kd)\n s = ScatterND (kd, rows, u)\n z = Mul (x, s)",
        "float[2, 8] kd0 = {" + ", ".join(str(i) for i in range(16)) + "}, int64[3, 1] rows = {0, 1, 2}",
    ),
    "remove-zero-bias": (
        "z = Conv <kernel_shape = [1, 1]> (x, pw, zero)",
        "float[3, 3, 1, 1] pw = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] zero = {0, 0, 0}",
    ),
    "simplify-reshapes": (
        "n = Shape <start = 0, end = 1> (x)\n t = Concat <axis = 0> (n, rest)\n f = Reshape (x, t)\n"
        " a = Relu (f)\n z = Reshape (a, back)",
        "int64[1] rest = {192}, int64[4] back = {-1, 3, 8, 8}",
    ),
    "quantize-8bit": (
        "z = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)",
        "float[3, 3, 3, 3] pw = {CONV3}",
    ),
    "quantize-weights": (
        "z = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)",
        "float[3, 3, 3, 3] pw = {CONV3}",
    ),
    "insert-exits": (
        "a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)\n b = Relu (a)\n"
        " c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, pw)\n d = Relu (c)\n z = Add (d, b)",
        "float[3, 3, 3, 3] pw = {CONV3}",
    ),
    "factorize": (  # the third output is the first
        "z = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw, pb)",
        "float[3, 3, 3, 3] pw = {THIN}, float[3] pb = {1, 2, 3}",
    ),
    "prune-structures": (
        "h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw, pb)\n r = Relu (h)\n"
        " z = Conv <kernel_shape = [1, 1]> (r, pv)",
        "float[4, 3, 3, 3] pw = {CONV}, float[4] pb = {1, 0.5, 1, 0.01}, float[3, 4, 1, 1] pv = {"
        "1, 0.5, -1, 0.01, -1, 1, 0.5, 0.01, 0.5, 1, 1, 0.02}",
    ),
    "remove-dead-units": (
        "h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)\n r = Relu (h)\n"
        " z = Conv <kernel_shape = [1, 1]> (r, pv)",
        "float[4, 3, 3, 3] pw = {CONV}, float[3, 4, 1, 1] pv = {1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0}",
    ),
    "remove-blocks": (
        "h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)\n r = Relu (h)\n"
        " f = Conv <kernel_shape = [1, 1]> (r, pv)\n z = Add (h, f)",
        "float[3, 3, 3, 3] pw = {CONV3}, float[3, 3, 1, 1] pv = {"
        "0.02, 0.01, 0, -0.01, 0.02, 0.01, 0.03, 0, 0.01}",
    ),
    "remove-unread-positions": (
        "h = MatMul (x, pw)\n g = Gather <axis = 2> (h, first)\n g4 = Unsqueeze (g, row)\n z = Add (x, g4)",
        "float[8, 8] pw = {WIDE}, int64 first = {0}, int64[1] row = {2}",
    ),
    "prune-tokens": (
        "t = Reshape (x, flat)\n q = MatMul (t, pw)\n q4 = Reshape (q, heads)\n"
        " qt = Transpose <perm = [0, 2, 1, 3]> (q4)\n k = MatMul (t, pa)\n k4 = Reshape (k, heads)\n"
        " kt = Transpose <perm = [0, 2, 3, 1]> (k4)\n v = MatMul (t, pb)\n v4 = Reshape (v, heads)\n"
        " vt = Transpose <perm = [0, 2, 1, 3]> (v4)\n m = MatMul (qt, kt)\n p = Softmax <axis = -1> (m)\n"
        " c = MatMul (p, vt)\n ct = Transpose <perm = [0, 2, 1, 3]> (c)\n c3 = Reshape (ct, flat)\n"
        " u = Add (t, c3)\n f = MatMul (u, pa)\n r = Relu (f)\n g = MatMul (r, pb)\n w = Add (u, g)\n"
        " z = Reshape (w, back)",
        "float[8, 8] pw = {WIDE}, float[8, 8] pa = {WIDE}, float[8, 8] pb = {WIDE},"
        " int64[3] flat = {-1, 24, 8}, int64[4] heads = {-1, 24, 2, 4}, int64[4] back = {-1, 3, 8, 8}",
    ),
    "skip-feed-forward": (
        "t = Reshape (x, flat)\n s = MatMul (t, pw)\n h = MatMul (s, pa)\n r = Relu (h)\n"
        " f = MatMul (r, pb)\n u = Add (s, f)\n z = Reshape (u, back)",
        "float[8, 8] pw = {WIDE}, float[8, 8] pa = {WIDE}, float[8, 8] pb = {WIDE},"
        " int64[3] flat = {-1, 24, 8}, int64[4] back = {-1, 3, 8, 8}",
    ),
    "sparsify": (
        "z = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, pw)",
        "float[3, 3, 3, 3] pw = {CONV3}",
    ),
}

ALONE = tuple(name for name in pass_names() if name != "heal")
"""Alone, on a model nothing was cut from, there is nothing to heal."""
OPTIONS = {
    "factorize": 'factorize{min-elements=1 multiple=1 shares=[0.99] skip-sites=["tail_c", "tail_p"]}',
    "prune-structures": 'prune-structures{multiple=1 skip-sites=["cw:0"]}',
    "quantize-8bit": "quantize-8bit{min-conv-elements=1 min-matmul-elements=1}",
    "quantize-weights": 'quantize-weights{min-elements=1 settings=["int8"] symmetric=true}',
    "sparsify": 'sparsify{min-elements=1 settings=["unstructured-0.1"] skip-sites=["tail_c", "tail_p"]}',
}


def _weights(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


@cache
def _text(name: str) -> str:
    pattern, constants = PATTERNS[name]
    if name == "remove-redundant-scatters":
        constants = (
            "float[3, 8] kd = {"
            + ", ".join(str(i % 7 - 3) for i in range(24))
            + "}, int64[3, 1] rows = {0, 1, 2}"
        )
        pattern = "u = Relu (kd)\n s = ScatterND (kd, rows, u)\n s4 = Unsqueeze (s, last)\n z = Mul (x, s4)"
        constants += ", int64[1] last = {2}"
    extra = f", int64[2] tail_axes = {{1, 2}}{', ' + constants if constants else ''}"
    return (
        NETWORK.replace("PATTERN", pattern)
        .replace("CONSTANTS", extra)
        .replace("THIN", f"{_weights(27, 4)}, {_weights(27, 5)}, {_weights(27, 4)}")
        .replace("WIDE", _weights(64, 6))
        .replace("CONV3", _weights(81, 3))
        .replace("CONV", _weights(108, 1))
        .replace("MATMUL", _weights(24, 2))
    )


class Images:
    """Random images as data to fit on."""

    labels: Array | None = None

    def __init__(self, count: int = 96) -> None:
        self._images = np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._images)

    def feeds(self, index: int) -> Feeds:
        return {"x": self._images[index : index + 1]}

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self._images[list(indices)]}


DATA: Samples = Images()


def _step(name: str) -> Pass:
    return parse_pass(OPTIONS.get(name, name))


def _model(name: str) -> ir.Model:
    return parse(_text(name))


@pytest.mark.parametrize("name", ALONE)
def test_every_pass_fires_and_is_accepted_unharmed(name: str) -> None:
    assert name in PATTERNS, "add a network in which the new pass fires"

    result = Pipeline([_step(name)]).run(_model(name), data=DATA)

    assert result.changed


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("name", ALONE)
def test_every_corruption_is_caught_and_named(name: str, fault: Fault) -> None:
    for pick in range(PICKS):
        broken = corrupting(_step(name), fault, pick)

        with pytest.raises(PassError) as caught:
            Pipeline([broken]).run(_model(name), data=DATA)

        assert caught.value.culprit is broken
        assert f"pass '{broken}'" in str(caught.value)
