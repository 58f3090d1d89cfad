"""Forms that exported architectures brought up, each as small as it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling

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
        "o = Reshape(of, unfolded) ot = Transpose<perm = [0,2,1,3]>(o) j = Reshape(ot, joined) y = MatMul(j, wo)",
        "int64[4] apart = {0,0,3,4}, int64[3] joined = {0,0,-1}, int64[1] three = {3}, int64[1] four = {4},"
        "int64[1] minus = {-1}",
        [("wq:1.0", "heads", 3), ("wq:1.1", "head-width", 4), ("wv:1.1", "head-width", 4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_cut(build: Build, removes_what_it_zeroes: Check, name: str) -> None:
    weights, body, extra, expected = CASES[name]

    coupling = removes_what_it_zeroes(build(TOKENS, LOGITS, weights, body, extra))

    assert [(group.key, group.kind, group.units) for group in coupling.groups] == expected
