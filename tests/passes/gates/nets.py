"""Tiny transformers with random weights, and samples of different lengths for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.graph.text import parse

Floats = npt.NDArray[np.float32]

WIDTH = 8
LONGEST = 7


def weight(seed: int, *shape: int, scale: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


class _Writer:
    def __init__(self) -> None:
        self.constants: list[str] = []
        self.body: list[str] = []

    def constant(self, name: str, array: Array) -> str:
        numbers = ", ".join(str(float(number)) for number in array.reshape(-1))
        self.constants.append(f"float[{','.join(map(str, array.shape))}] {name} = {{{numbers}}}")
        return name

    def product(self, source: str, name: str, shape: tuple[int, int], scale: float = 0.5) -> str:
        seed = len(self.constants)
        self.constant(f"{name}_w", weight(seed, *shape, scale=scale))
        self.constant(f"{name}_c", weight(seed + 1, shape[1], scale=0.2))
        self.body += [f"{name}_p = MatMul({source}, {name}_w)", f"{name} = Add({name}_p, {name}_c)"]
        return name

    def norm(self, source: str, name: str) -> str:
        seed = len(self.constants)
        self.constant(f"{name}_g", 1.0 + weight(seed, WIDTH, scale=0.1))
        self.constant(f"{name}_b", weight(seed + 1, WIDTH, scale=0.1))
        self.body.append(f"{name} = LayerNormalization({source}, {name}_g, {name}_b)")
        return name

    def attention(self, source: str, name: str, *, masked: bool) -> str:
        q, k, v = (self.product(source, f"{name}_{role}", (WIDTH, WIDTH)) for role in "qkv")
        self.body += [f"{name}_t = Transpose<perm = [0, 2, 1]>({k})", f"{name}_r = MatMul({q}, {name}_t)"]
        scores = f"{name}_r"
        if masked:
            self.body.append(f"{name}_s = Add({name}_r, shut)")
            scores = f"{name}_s"
        self.body += [f"{name}_a = Softmax({scores})", f"{name}_m = MatMul({name}_a, {v})"]
        return self.product(f"{name}_m", f"{name}_o", (WIDTH, WIDTH))

    def feed_forward(self, source: str, name: str) -> str:
        hidden = self.product(source, f"{name}_1", (WIDTH, 24))
        self.body.append(f"{name}_g = Gelu({hidden})")
        return self.product(f"{name}_g", f"{name}_2", (24, WIDTH), 0.3)


def transformer(
    *,
    post_norm: bool = False,
    masked: bool = True,
    head: str = "first",
    layers: int = 2,
    tokens: str = "T",
    classes: int = 5,
) -> ir.Model:
    """[N, T, 8] and a mask [N, T] to classes (heads ``first``, ``mean``), or numbers a token (``tokens``)."""
    writer = _Writer()
    if masked:
        writer.body += [
            "mf = Cast<to = 1>(mask)", "off = Sub(mf, one)", "low = Mul(off, big)",
            "shut = Unsqueeze(low, ax1)"
        ]  # fmt: skip
    embedded = writer.product("x", "embed", (WIDTH, WIDTH))
    stream = writer.norm(embedded, "n0") if post_norm else embedded
    for layer in range(1, layers + 1):
        for part in ("att", "ffn"):
            name = f"{part}{layer}"
            source = stream if post_norm else writer.norm(stream, f"{name}_n")
            result = (
                writer.attention(source, name, masked=masked)
                if part == "att"
                else writer.feed_forward(source, name)
            )
            writer.body.append(f"{name} = Add({stream}, {result})")
            stream = writer.norm(name, f"{name}_n") if post_norm else name
    shape = _head(writer, stream, head, classes, masked=masked)
    inputs = f"float[N, {tokens}, {WIDTH}] x" + (f", int64[N, {tokens}] mask" if masked else "")
    writer.constants += [
        "int64[1] ax1 = {1}", "int64[1] ax2 = {2}", "int64 zero = {0}",
        "float one = {1.0}", "float big = {10000.0}"
    ]  # fmt: skip
    lines = "\n".join(writer.body)
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net ({inputs}) => (float{shape.replace('T', tokens)} y)\n"
        f"<{', '.join(writer.constants)}> {{\n{lines}\n}}"
    )


def _head(writer: _Writer, stream: str, head: str, classes: int, *, masked: bool) -> str:
    writer.constant("wy", weight(99, WIDTH, classes))
    if head == "tokens":
        writer.body.append(f"y = MatMul({stream}, wy)")
        return f"[N, T, {classes}]"
    if head == "first":
        writer.body.append(f"pooled = Gather<axis = 1>({stream}, zero)")
    elif masked:
        writer.body += [
            "m3 = Unsqueeze(mf, ax2)", f"weighed = Mul({stream}, m3)",
            "total = ReduceSum<keepdims = 0>(weighed, ax1)", "count = ReduceSum(mf, ax1)",
            "pooled = Div(total, count)",
        ]  # fmt: skip
    else:
        writer.body.append(f"pooled = ReduceMean<keepdims = 0>({stream}, ax1)")
    writer.body.append("y = MatMul(pooled, wy)")
    return f"[N, {classes}]"


@dataclass(frozen=True)
class Texts:
    """Samples of 1 to ``LONGEST`` tokens, as ``budgeted.Samples``; padding holds noise."""

    count: int = 60
    masked: bool = True
    fixed: int | None = None

    def __len__(self) -> int:
        return self.count

    def length(self, index: int) -> int:
        return self.fixed or 1 + index % LONGEST

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int], width: int | None = None) -> Feeds:
        width = width or max(self.length(index) for index in indices)
        x = weight(9999, len(indices), width, WIDTH)
        mask = np.zeros((len(indices), width), np.int64)
        for row, index in enumerate(indices):
            length = self.length(index)
            x[row, :length] = weight(1000 + index, LONGEST, WIDTH)[:length]
            mask[row, :length] = 1
        return {"x": x, "mask": mask} if self.masked else {"x": x}

    @property
    def labels(self) -> None:
        return None
