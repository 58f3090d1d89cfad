"""Attention, feed-forward parts and streams of transformers in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling

Build = Callable[..., ir.Model]
Check = Callable[[ir.Model], Coupling]
Shape = tuple[int, ...]
TOKENS, LOGITS = "float[batch, seq, 6] x", "float[batch, seq, 5] y"

SEPARATE = (
    "q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)"
    "qs = Reshape(q, apart) ks = Reshape(k, apart) vs = Reshape(v, apart)"
    "qt = Transpose<perm = [0,2,1,3]>(qs) kt = Transpose<perm = [0,2,3,1]>(ks) "
    "vt = Transpose<perm = [0,2,1,3]>(vs)"
)
SCORES = (
    "z = MatMul(qt, kt) zs = Mul(z, c) s = Softmax<axis = -1>(zs) o = MatMul(s, vt) "
    "ot = Transpose<perm = [0,2,1,3]>(o)"
)
AFTER = "j = Reshape(ot, joined) u = MatMul(j, wo)"
ATTENTION = {"w0": (6, 8), "wq": (8, 12), "wk": (8, 12), "wv": (8, 12), "wo": (12, 8), "wy": (8, 5)}
APART = "int64[4] apart = {0,0,3,4}, int64[3] joined = {0,0,-1}, float c = {0.5}"

CASES: Mapping[str, tuple[Mapping[str, Shape], str, str, list[tuple[str, str, int]]]] = {
    "attention": (
        ATTENTION,
        "e = MatMul(x, w0)" + SEPARATE + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        APART,
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 4),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "computed-shapes": (
        ATTENTION,
        "e = MatMul(x, w0) b = Shape<start = 0, end = 1>(x) t = Shape<start = 1, end = 2>(x)"
        "apart = Concat<axis = 0>(b, t, minus, four) joined = Concat<axis = 0>(b, t, twelve)"
        + SEPARATE
        + SCORES
        + AFTER
        + "r = Add(e, u) y = MatMul(r, wy)",
        "int64[1] minus = {-1}, int64[1] four = {4}, int64[1] twelve = {12}, float c = {0.5}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 4),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "scale-from-shape": (
        ATTENTION,
        "e = MatMul(x, w0)" + SEPARATE + "d = Shape<start = 3, end = 4>(qt) df = Cast<to = 1>(d) "
        "dr = Sqrt(df) c = Reciprocal(dr)" + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        "int64[4] apart = {0,0,3,4}, int64[3] joined = {0,0,-1}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 4),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "fused-qkv-split": (
        {"w0": (6, 8), "w": (8, 36), "wo": (12, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) f = MatMul(e, w) q, k, v = Split<axis = -1, num_outputs = 3>(f)"
        "qs = Reshape(q, apart) ks = Reshape(k, apart) vs = Reshape(v, apart)"
        "qt = Transpose<perm = [0,2,1,3]>(qs) kt = Transpose<perm = [0,2,3,1]>(ks) "
        "vt = Transpose<perm = [0,2,1,3]>(vs)" + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        APART,
        [
            ("w0:1", "stream", 8),
            ("w:1.0", "heads", 3),
            ("w:1.1", "head-width", 4),
            ("w:1.2", "head-width", 4),
        ],
    ),
    "fused-qkv-reshaped": (
        {"w0": (6, 8), "w": (8, 36), "wo": (12, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) f = MatMul(e, w) g = Reshape(f, five) h = Transpose<perm = [2,0,3,1,4]>(g)"
        "qt = Gather<axis = 0>(h, i0) k1 = Gather<axis = 0>(h, i1) vt = Gather<axis = 0>(h, i2)"
        "kt = Transpose<perm = [0,1,3,2]>(k1)" + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        "int64[5] five = {0,0,3,3,4}, int64[3] joined = {0,0,-1}, float c = {0.5}, int64 i0 = {0}, "
        "int64 i1 = {1}, int64 i2 = {2}",
        [("w0:1", "stream", 8), ("w:1.1", "heads", 3), ("w:1.2", "head-width", 4)],
    ),
    "fused-per-head": (
        {"w0": (6, 8), "w": (8, 36), "wo": (12, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) f = MatMul(e, w) g = Reshape(f, apart) h = Transpose<perm = [0,2,1,3]>(g)"
        "qt, k1, vt = Split<axis = 3>(h, parts) kt = Transpose<perm = [0,1,3,2]>(k1)"
        + SCORES
        + AFTER
        + "r = Add(e, u) y = MatMul(r, wy)",
        "int64[4] apart = {0,0,3,12}, int64[3] joined = {0,0,-1}, float c = {0.5}, int64[3] parts = {4,4,4}",
        [
            ("w0:1", "stream", 8),
            ("w:1.0", "heads", 3),
            ("w:1.1", "head-width", 4),
            ("w:1.2", "head-width", 4),
        ],
    ),
    "grouped-query": (
        {"w0": (6, 8), "wq": (8, 24), "wk": (8, 12), "wv": (8, 12), "wo": (24, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)"
        "qs = Reshape(q, six) ks = Reshape(k, apart) vs = Reshape(v, apart) "
        "qt = Transpose<perm = [0,2,1,3]>(qs)"
        "k1 = Transpose<perm = [0,2,1,3]>(ks) v1 = Transpose<perm = [0,2,1,3]>(vs)"
        "k2 = Unsqueeze(k1, two) v2 = Unsqueeze(v1, two) k3 = Expand(k2, wide) v3 = Expand(v2, wide)"
        "sh = Shape(qt) k4 = Reshape(k3, sh) vt = Reshape(v3, sh) kt = Transpose<perm = [0,1,3,2]>(k4)"
        + SCORES
        + AFTER
        + "r = Add(e, u) y = MatMul(r, wy)",
        "int64[4] six = {0,0,6,4}, int64[4] apart = {0,0,3,4}, int64[3] joined = {0,0,-1}, float c = {0.5},"
        "int64[1] two = {2}, int64[5] wide = {1,1,2,1,1}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "heads", 2),
            ("wq:1.2", "head-width", 4),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "rotary": (
        {**ATTENTION, "cos": (1, 1, 1, 2), "sin": (1, 1, 1, 2)},
        "e = MatMul(x, w0)"
        + SEPARATE.replace("qt =", "q0 =")
        + "a = Slice(q0, zero, two, three) b = Slice(q0, two, far, three) n = Neg(b) "
        "turned = Concat<axis = -1>(n, a)"
        "cc = Concat<axis = -1>(cos, cos) ss = Concat<axis = -1>(sin, sin) m1 = Mul(q0, cc) "
        "m2 = Mul(turned, ss) qt = Add(m1, m2)" + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        APART + ", int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, "
        "int64[1] far = {9223372036854775807}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 2),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "rotary-interleaved": (
        {**ATTENTION, "cos": (1, 1, 1, 2), "sin": (1, 1, 1, 2)},
        "e = MatMul(x, w0)"
        + SEPARATE.replace("qt =", "q0 =")
        + "a = Slice(q0, zero, far, three, two) b = Slice(q0, one, far, three, two)"
        "m1 = Mul(a, cos) m2 = Mul(b, sin) m = Sub(m1, m2) n1 = Mul(b, cos) n2 = Mul(a, sin) n = Add(n1, n2)"
        "mu = Unsqueeze(m, last) nu = Unsqueeze(n, last) st = Concat<axis = -1>(mu, nu) "
        "qt = Reshape(st, back)" + SCORES + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        APART + ", int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},"
        "int64[1] far = {9223372036854775807}, int64[1] last = {-1}, int64[4] back = {0,0,0,-1}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 2),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "folded-heads": (
        ATTENTION,
        "e = MatMul(x, w0) q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)"
        "qs = Reshape(q, apart) ks = Reshape(k, apart) vs = Reshape(v, apart)"
        "q1 = Transpose<perm = [0,2,1,3]>(qs) k1 = Transpose<perm = [0,2,3,1]>(ks) "
        "v1 = Transpose<perm = [0,2,1,3]>(vs)"
        "t = Shape<start = 1, end = 2>(x) sq = Concat<axis = 0>(minus, t, four) "
        "sk = Concat<axis = 0>(minus, four, t)"
        "qt = Reshape(q1, sq) kt = Reshape(k1, sk) vt = Reshape(v1, sq) z = MatMul(qt, kt) "
        "zs = Mul(z, c) s = Softmax<axis = -1>(zs)"
        "o = MatMul(s, vt) so = Concat<axis = 0>(minus, three, t, four) o4 = Reshape(o, so) "
        "ot = Transpose<perm = [0,2,1,3]>(o4)" + AFTER + "r = Add(e, u) y = MatMul(r, wy)",
        APART + ", int64[1] minus = {-1}, int64[1] three = {3}, int64[1] four = {4}",
        [
            ("w0:1", "stream", 8),
            ("wq:1.0", "heads", 3),
            ("wq:1.1", "head-width", 4),
            ("wv:1.1", "head-width", 4),
        ],
    ),
    "gated": (
        {"w0": (6, 8), "wg": (8, 10), "wu": (8, 10), "wd": (10, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) g = MatMul(e, wg) a = Sigmoid(g) h = MatMul(e, wu) m = Mul(a, h) "
        "d = MatMul(m, wd) r = Add(e, d) y = MatMul(r, wy)",
        "",
        [("w0:1", "stream", 8), ("wg:1", "neurons", 10)],
    ),
    "gated-halves": (
        {"w0": (6, 8), "w": (8, 20), "wd": (10, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) f = MatMul(e, w) h = Slice(f, zero, ten, two) g = Slice(f, ten, far, two) "
        "a = Sigmoid(g) m = Mul(a, h)"
        "d = MatMul(m, wd) r = Add(e, d) y = MatMul(r, wy)",
        "int64[1] zero = {0}, int64[1] two = {2}, int64[1] ten = {10}, int64[1] far = {9223372036854775807}",
        [("w0:1", "stream", 8), ("w:1", "neurons", 10)],
    ),
    "layer-norm": (
        {"w0": (6, 8), "scale": (8,), "b": (8,), "w1": (8, 10), "w2": (10, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) n = LayerNormalization<axis = -1>(e, scale, b) h = MatMul(n, w1) a = Relu(h) "
        "d = MatMul(a, w2) r = Add(e, d)"
        "y = MatMul(r, wy)",
        "",
        [("w0:1", "stream", 8), ("w1:1", "neurons", 10)],
    ),
    "layer-norm-in-pieces": (
        {"w0": (6, 8), "scale": (8,), "b": (8,), "wy": (8, 5)},
        "e = MatMul(x, w0) m = ReduceMean<keepdims = 1>(e, last) c = Sub(e, m) p = Pow(c, two) "
        "v = ReduceMean<keepdims = 1>(p, last)"
        "ve = Add(v, eps) s = Sqrt(ve) n = Div(c, s) ns = Mul(n, scale) nb = Add(ns, b) y = MatMul(nb, wy)",
        "int64[1] last = {-1}, float two = {2}, float eps = {0.00001}",
        [("w0:1", "neurons", 8)],
    ),
    "rms-norm": (
        {"w0": (6, 8), "scale": (8,), "wy": (8, 5)},
        "e = MatMul(x, w0) p = Mul(e, e) v = ReduceMean<keepdims = 1>(p, last)"
        "ve = Add(v, eps) s = Sqrt(ve) n = Div(e, s) ns = Mul(n, scale) y = MatMul(ns, wy)",
        "int64[1] last = {-1}, float eps = {0.00001}",
        [("w0:1", "neurons", 8)],
    ),
    "tied-weight": (
        {"w": (6, 8), "wy": (6, 5)},
        "e = MatMul(x, w) a = Relu(e) t = Transpose<perm = [1,0]>(w) d = MatMul(a, t) y = MatMul(d, wy)",
        "",
        [("w:1", "neurons", 8)],
    ),
    "einsum": (
        {"w": (6, 2, 4), "wd": (2, 4, 8), "wy": (8, 5)},
        'e = Einsum<equation = "btc,chd->bthd">(x, w) a = Relu(e) '
        'd = Einsum<equation = "bthd,hdo->bto">(a, wd) y = MatMul(d, wy)',
        "",
        [("w:1", "neurons", 2), ("w:2", "neurons", 4), ("wd:2", "neurons", 8)],
    ),
    "mixture-of-experts": (
        {"w0": (6, 8), "wr": (8, 3), "w1": (3, 8, 10), "w2": (3, 10, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) g = MatMul(e, wr) p = Softmax<axis = -1>(g) e4 = Unsqueeze(e, one) "
        "h = MatMul(e4, w1) a = Relu(h) d = MatMul(a, w2)"
        "pt = Transpose<perm = [0,2,1]>(p) pu = Unsqueeze(pt, minus) m = Mul(d, pu) "
        "s = ReduceSum<keepdims = 0>(m, one) r = Add(e, s) y = MatMul(r, wy)",
        "int64[1] one = {1}, int64[1] minus = {-1}",
        [("w0:1", "stream", 8), ("w1:2", "neurons", 10)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_finds_and_removes(name: str, build: Build, removes_what_it_zeroes: Check) -> None:
    weights, body, extra, expected = CASES[name]
    model = build(TOKENS, LOGITS, weights, body, extra)

    coupling = removes_what_it_zeroes(model)

    assert [(group.key, group.kind, group.units) for group in coupling.groups] == expected
