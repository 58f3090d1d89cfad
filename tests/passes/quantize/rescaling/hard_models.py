"""Models that 8 bits with one scale a tensor break: channels of very different size that matter the same.

Each is an ordinary model in which channels were made larger on one side and smaller on the other, so it
computes what the ordinary one does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.text import parse
from tests.passes.quantize.conftest import HEADER
from tests.passes.rows import Rows, literal, weight

Floats = npt.NDArray[np.float32]


def uneven_mlp(factor: float = 100.0) -> ir.Model:
    """Three products; one channel of two activations and of two weights is ``factor`` times the others."""
    norm, hidden = np.ones(16, np.float32), np.ones(32, np.float32)
    norm[3], hidden[5] = factor, factor
    w1 = weight(1, 16, 32) / norm[:, None] * hidden
    b1 = weight(2, 32, scale=0.3) * hidden
    w2 = weight(3, 32, 32, scale=0.3) / hidden[:, None]
    return parse(
        f"""
        {HEADER}
        mlp (float[N, 16] x) => (float[N, 10] logits)
        <float[16] gamma = {literal(norm)}, float[16] beta = {literal(weight(9, 16, scale=0.1) * norm)},
         float[16, 32] w1 = {literal(w1)}, float[32] b1 = {literal(b1)},
         float[32, 32] w2 = {literal(w2)}, float[32] b2 = {literal(weight(4, 32, scale=0.3))},
         float[32, 10] w3 = {literal(weight(5, 32, 10))}>
        {{
            n = LayerNormalization(x, gamma, beta)
            p1 = MatMul(n, w1)
            s1 = Add(p1, b1)
            h1 = Relu(s1)
            h2 = Gemm(h1, w2, b2)
            r2 = Relu(h2)
            logits = MatMul(r2, w3)
        }}
        """
    )


def uneven_blocks() -> ir.Model:
    """Two inverted residual blocks whose depthwise channels range over five orders of magnitude."""
    parts: list[str] = []
    stored: list[str] = []
    stream = "stem"
    for block in range(2):
        inner = np.geomspace(1e-2, 1e2, 32).astype(np.float32)
        deep = np.random.default_rng(block).permutation(np.geomspace(1e-1, 1e2, 32)).astype(np.float32)
        expand = weight(10 + block, 32, 8, 1, 1, scale=0.4) * inner[:, None, None, None]
        depthwise = weight(20 + block, 32, 1, 3, 3, scale=0.4) * (deep / inner)[:, None, None, None]
        project = weight(30 + block, 8, 32, 1, 1, scale=0.2) / deep[None, :, None, None]
        stored += [
            f"float[32, 8, 1, 1] e{block} = {literal(expand)}",
            f"float[32] eb{block} = {literal(weight(40 + block, 32, scale=0.2) * inner)}",
            f"float[32, 1, 3, 3] d{block} = {literal(depthwise)}",
            f"float[32] db{block} = {literal(weight(50 + block, 32, scale=0.2) * deep)}",
            f"float[8, 32, 1, 1] q{block} = {literal(project)}",
            f"float[8] qb{block} = {literal(weight(60 + block, 8, scale=0.2))}",
        ]
        parts += [
            f"ex{block} = Conv({stream}, e{block}, eb{block})",
            f"er{block} = Relu(ex{block})",
            f"dw{block} = Conv<group = 32, pads = [1, 1, 1, 1]>(er{block}, d{block}, db{block})",
            f"dr{block} = Relu(dw{block})",
            f"pw{block} = Conv(dr{block}, q{block}, qb{block})",
            f"out{block} = Add({stream}, pw{block})",
        ]
        stream = f"out{block}"
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, 8, 8] image) => (float[N, 10] logits)
        <float[8, 3, 3, 3] w = {literal(weight(1, 8, 3, 3, 3, scale=0.3))}, {", ".join(stored)},
         float[8, 10] v = {literal(weight(2, 8, 10))}, int64[2] axes = {{2, 3}}>
        {{
            stem = Conv<pads = [1, 1, 1, 1]>(image, w)
            {chr(10).join(parts)}
            g = ReduceMean<keepdims = 0>({stream}, axes)
            logits = MatMul(g, v)
        }}
        """
    )


def vectors(seed: int, count: int = 256) -> Rows:
    return Rows({"x": weight(seed, count, 16)})


def images(seed: int, count: int = 96) -> Rows:
    return Rows({"image": weight(seed, count, 3, 8, 8)})
