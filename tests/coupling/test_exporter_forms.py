"""Forms that exported architectures brought up, each as small as it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling, find_coupling
from adapass.coupling.remove import remove
from adapass.coupling.zeroed import zeroed
from adapass.execution import Session
from adapass.graph.text import clone
from tests.coupling.conftest import assert_close, keep_most

Build = Callable[..., ir.Model]
Check = Callable[[ir.Model], Coupling]
Shape = tuple[int, ...]
TOKENS, LOGITS = "float[batch, seq, 6] x", "float[batch, seq, 5] y"

CASES: Mapping[str, tuple[dict[str, Shape], str, str, list[tuple[str, str, int]]]] = {
    # Bloom: batch and heads on one axis, whose size is computed, beside an axis left open.
    "heads-folded-into-the-batch": (
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 5)},
        "b = Shape<start = 0, end = 1>(x) t = Shape<start = 1, end = 2>(x) bh = Mul(b, three)"
        "folded = Concat<axis = 0>(bh, t, four) open = Concat<axis = 0>(bh, t, minus)"
        "unfolded = Concat<axis = 0>(b, three, t, minus)"
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        "qa = Reshape(q, apart) ka = Reshape(k, apart) va = Reshape(v, apart)"
        "qt = Transpose<perm = [0,2,1,3]>(qa) kt = Transpose<perm = [0,2,3,1]>(ka)"
        "vt = Transpose<perm = [0,2,1,3]>(va) vf = Reshape(vt, folded)"
        "z = MatMul(qt, kt) s = Softmax<axis = -1>(z) sf = Reshape(s, open) of = MatMul(sf, vf)"
        "o = Reshape(of, unfolded) ot = Transpose<perm = [0,2,1,3]>(o) j = Reshape(ot, joined)"
        " y = MatMul(j, wo)",
        "int64[4] apart = {0,0,3,4}, int64[3] joined = {0,0,-1}, int64[1] three = {3}, int64[1] four = {4},"
        "int64[1] minus = {-1}",
        [("wq:1.0", "heads", 3), ("wq:1.1", "head-width", 4), ("wv:1.1", "head-width", 4)],
    ),
    # Mixtral: the weights of the chosen experts are looked up, then multiplied with the tokens.
    "experts-looked-up-from-the-left": (
        {"w0": (6, 8), "g": (8, 3), "up": (3, 12, 8), "down": (3, 8, 12), "wy": (8, 5)},
        "e = MatMul(x, w0) p = MatMul(e, g) best = ArgMax<axis = -1, keepdims = 1>(p)"
        "a = GatherND(up, best) c = Unsqueeze(e, last) h = MatMul(a, c) r = Relu(h)"
        "d = GatherND(down, best) o = MatMul(d, r) f = Squeeze(o, last) z = Add(e, f) y = MatMul(z, wy)",
        "int64[1] last = {-1}",
        [("w0:1", "stream", 8), ("up:1", "neurons", 12)],
    ),
    "experts-looked-up-from-the-right": (
        {"w0": (6, 8), "g": (8, 3), "up": (3, 8, 12), "down": (3, 12, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) p = MatMul(e, g) best = ArgMax<axis = -1, keepdims = 0>(p)"
        "a = Gather<axis = 0>(up, best) c = Unsqueeze(e, row) h = MatMul(c, a) r = Relu(h)"
        "d = Gather<axis = 0>(down, best) o = MatMul(r, d) f = Squeeze(o, row) z = Add(e, f)"
        " y = MatMul(z, wy)",
        "int64[1] row = {2}",
        [("w0:1", "stream", 8), ("up:2", "neurons", 12)],
    ),
    # Falcon: the key head that all query heads share is picked by its number, counted from the end.
    "one-head-picked-by-number": (
        {"w": (6, 24), "wo": (16, 5)},
        "f = MatMul(x, w) h = Reshape(f, apart) q = Slice(h, zero, minus_two, axis) "
        "t = Transpose<perm = [2,0,1,3]>(h) k = GatherND(t, second) v = GatherND(t, first)"
        "qt = Transpose<perm = [0,2,1,3]>(q) kt = Transpose<perm = [1,0,3,2]>(k)"
        " vt = Transpose<perm = [1,0,2,3]>(v)"
        "z = MatMul(qt, kt) s = Softmax<axis = -1>(z) o = MatMul(s, vt) ot = Transpose<perm = [0,2,1,3]>(o)"
        "j = Reshape(ot, joined) y = MatMul(j, wo)",
        "int64[4] apart = {0,0,6,4}, int64[3] joined = {0,0,-1}, int64[1] zero = {0}, int64[1] axis = {2},"
        "int64[1] minus_two = {-2}, int64[1,1] second = {-2}, int64[1,1] first = {-1}",
        [("w:1.0", "heads", 4), ("w:1.3", "head-width", 4)],
    ),
    # Funnel: a window over pairs of tokens looks at one channel at a time.
    "pooled-tokens": (
        {"w": (6, 8), "wy": (8, 5), "wz": (6, 5)},
        "h = MatMul(x, w) i = Unsqueeze(h, one) p = AveragePool<kernel_shape = [2,1], strides = [2,1]>(i)"
        "q = Squeeze(p, one) m = ReduceMean<keepdims = 1>(q, one) u = MatMul(m, wy) v = MatMul(x, wz)"
        " y = Add(u, v)",
        "int64[1] one = {1}",
        [("w:1", "neurons", 8)],
    ),
    # A size that is dynamic and no axis of an input: the one beside it can be left open all the same.
    "expanded-anew": (
        {"w": (6, 8), "wy": (8, 5), "wz": (6, 5)},
        "h = MatMul(x, w) q = ReduceMean<keepdims = 1>(h, both) s = Shape<start = 0, end = 2>(x)"
        "to = Concat<axis = 0>(s, one) e = Expand(q, to) f = Reshape(e, flat) r = Reshape(f, back)"
        "m = MatMul(r, wy) n = ReduceMean<keepdims = 1>(m, both) v = MatMul(x, wz) y = Add(n, v)",
        "int64[2] both = {0,1}, int64[1] one = {1}, int64[2] flat = {0,-1}, int64[3] back = {0,-1,8}",
        [("w:1", "neurons", 8)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_cut(build: Build, removes_what_it_zeroes: Check, name: str) -> None:
    weights, body, extra, expected = CASES[name]

    coupling = removes_what_it_zeroes(build(TOKENS, LOGITS, weights, body, extra))

    assert [(group.key, group.kind, group.units) for group in coupling.groups] == expected


def test_a_model_that_short_sequences_break(build: Build) -> None:
    """Speech models make one frame of hundreds of samples; with fewer they do not run."""
    model = build(
        "float[batch, samples] x",
        "float[batch, frames, 5] y",
        {"w": (8, 1, 40), "v": (8, 6), "wy": (6, 5)},
        "i = Unsqueeze(x, one) c = Conv<strides = [20]>(i, w) g = Relu(c) t = Transpose<perm = [0,2,1]>(g)"
        "h = MatMul(t, v) y = MatMul(h, wy)",
        "int64[1] one = {1}",
    )
    coupling = find_coupling(model)
    kept = {group.key: keep_most(group) for group in coupling.groups}
    smaller = clone(model)
    remove(smaller, kept)

    assert [(group.key, group.units) for group in coupling.groups] == [("w:0", 8), ("v:1", 6)]
    for batch, samples in ((2, 100), (3, 140)):
        feed = {"x": np.random.default_rng(samples).standard_normal((batch, samples)).astype(np.float32)}
        expected, found = (Session(each).run(feed)["y"] for each in (zeroed(model, kept), smaller))
        assert_close(found, expected, f"{samples} samples")
