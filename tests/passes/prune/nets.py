"""Hand-made networks and data for the tests of pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.graph.text import parse

CONVS = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[8, 3, 3, 3] w0 {216}, float[8] b0 {8},
 float[8, 8, 3, 3] w1 {576}, float[8] b1 {8}, float[8, 8, 3, 3] w2 {576}, float[8] b2 {8},
 float[8, 8, 3, 3] w3 {576}, float[8] b3 {8}, float[8, 8, 3, 3] w4 {576}, float[8] b4 {8},
 float[8, 5] wh {40}, float[5] bh {5}, int64[2] space = {2, 3}>
{
    s0 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0, b0)
    r0 = Relu (s0)
    h1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r0, w1, b1)
    a1 = Relu (h1)
    c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a1, w2, b2)
    s1 = Add (r0, c1)
    r1 = Relu (s1)
    h2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r1, w3, b3)
    a2 = Relu (h2)
    c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a2, w4, b4)
    s2 = Add (r1, c2)
    r2 = Relu (s2)
    m = ReduceMean <keepdims = 0> (r2, space)
    y = Gemm (m, wh, bh)
}
"""

TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
net (int64[N, T] ids, int64[N, T] mask) => (float[N, 3] y)
<float[11, 8] table {88}, float[8] g {8}, float[8] gb {8},
 float[8, 8] wq {64}, float[8, 8] wk {64}, float[8, 8] wv {64}, float[8, 8] wo {64}, float[8] bo {8},
 float[8, 16] wi {128}, float[16] bi {16}, float[16, 8] wf {128}, float[8] bf {8},
 float[8, 3] wh {24}, float[3] bh {3},
 int64[4] split = {0, 0, 4, 2}, int64[3] joined = {0, 0, 8}, float scale = {0.7}, float big = {1000},
 float one = {1}, int64[2] heads = {1, 2}, int64[1] last = {-1}, int64[1] tokens = {1}>
{
    e = Gather (table, ids)
    n = LayerNormalization <axis = -1> (e, g, gb)
    q = MatMul (n, wq)
    k = MatMul (n, wk)
    v = MatMul (n, wv)
    q4 = Reshape (q, split)
    k4 = Reshape (k, split)
    v4 = Reshape (v, split)
    qt = Transpose <perm = [0, 2, 1, 3]> (q4)
    kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    vt = Transpose <perm = [0, 2, 1, 3]> (v4)
    qk = MatMul (qt, kt)
    sc = Mul (qk, scale)
    mf = Cast <to = 1> (mask)
    m4 = Unsqueeze (mf, heads)
    off = Sub (m4, one)
    low = Mul (off, big)
    sm = Add (sc, low)
    p = Softmax <axis = -1> (sm)
    c = MatMul (p, vt)
    ct = Transpose <perm = [0, 2, 1, 3]> (c)
    cj = Reshape (ct, joined)
    o = MatMul (cj, wo)
    ob = Add (o, bo)
    s = Add (ob, e)
    i = MatMul (s, wi)
    ib = Add (i, bi)
    ig = Relu (ib)
    f = MatMul (ig, wf)
    fb = Add (f, bf)
    t = Add (fb, s)
    mt = Unsqueeze (mf, last)
    tm = Mul (t, mt)
    pool = ReduceSum <keepdims = 0> (tm, tokens)
    y = Gemm (pool, wh, bh)
}
"""


def network(text: str, seed: int = 0) -> ir.Model:
    """The text with every ``{count}`` filled with that many random numbers."""
    rng = np.random.default_rng(seed)
    parts = text.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        count, _, rest = part.partition("}")
        if count.isdigit() and not filled[-1].rstrip().endswith("="):
            scale = 1.5 / np.sqrt(max(int(count), 8) / 8)
            numbers = ", ".join(f"{v:.5f}" for v in rng.normal(size=int(count)) * scale)
            filled.append(f"= {{{numbers}}}{rest}")
        else:
            filled.append("{" + part)
    return parse("".join(filled))


@dataclass(frozen=True)
class Images:
    """Smooth random images."""

    count: int = 96
    labels: Array | None = None

    def __len__(self) -> int:
        return self.count

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        found = [np.random.default_rng(index).normal(size=(3, 8, 8)).cumsum(axis=-1) for index in indices]
        return {"x": (np.stack(found) / 2).astype(np.float32)}


@dataclass(frozen=True)
class Sentences:
    """Ids of several lengths; a batch is padded to the longest."""

    count: int = 120
    labels: Array | None = None

    def __len__(self) -> int:
        return self.count

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        lengths = [3 + index % 5 for index in indices]
        ids = np.full((len(indices), max(lengths)), 10, np.int64)
        mask = np.zeros(ids.shape, np.int64)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            ids[row, :length] = np.random.default_rng(index).integers(0, 10, length)
            mask[row, :length] = 1
        return {"ids": ids, "mask": mask}
