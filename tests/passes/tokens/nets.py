"""Tiny transformers with heads and random weights, and the same in NumPy, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.special import erf, softmax

from adapass.budgeted import Array, Feeds
from adapass.graph.text import parse
from tests.passes.rows import literal, weight
from tests.passes.tokens.reference import best_tokens, merged

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

WIDTH, HEADS, HIDDEN, CLASSES = 8, 2, 24, 5
SIZE = WIDTH // HEADS
LONGEST = 11
SCALE = 0.5
TABLE = 20
"""Positions that have a bias: more than any probe of shapes asks for."""


@dataclass(frozen=True)
class Net:
    """What is built: BERT-like (``post_norm``) or ViT-like, for any number of tokens or for ``length``."""

    post_norm: bool = True
    masked: bool = True
    head: str = "first"
    layers: int = 3
    length: int | None = None
    biased: bool = False
    """Whether each pair of positions has a number of its own that is added to the scores."""

    def weights(self) -> dict[str, Floats]:
        found = {"embed": weight(1, WIDTH, WIDTH), "wy": weight(2, WIDTH, CLASSES)}
        for layer in range(self.layers):
            for place, name in enumerate(("q", "k", "v", "o")):
                found[f"w{name}{layer}"] = weight(10 + 7 * layer + place, WIDTH, WIDTH, scale=0.6)
                found[f"b{name}{layer}"] = weight(100 + 7 * layer + place, WIDTH, scale=0.3)
            found[f"wf{layer}"] = weight(200 + layer, WIDTH, HIDDEN, scale=0.5)
            found[f"wg{layer}"] = weight(300 + layer, HIDDEN, WIDTH, scale=0.4)
            found[f"n{layer}"] = 1 + weight(400 + layer, WIDTH, scale=0.1)
            found[f"m{layer}"] = 1 + weight(500 + layer, WIDTH, scale=0.1)
        if self.biased:
            size = self.length or TABLE
            found["table"] = weight(600, 1, HEADS, size, size)
        return found

    def model(self) -> ir.Model:
        tokens = "T" if self.length is None else str(self.length)
        body = ["h0 = MatMul(x, embed)", *self._sides()]
        stream = "h0"
        for layer in range(self.layers):
            body += self._layer(layer, stream)
            stream = f"h{layer + 1}"
        body += self._head(stream)
        out = f"[B, {tokens}, {CLASSES}]" if self.head == "tokens" else f"[B, {CLASSES}]"
        constants = [
            f"float[{', '.join(map(str, array.shape))}] {name} = {literal(array)}"
            for name, array in self.weights().items()
        ]
        constants += [
            f"float scale = {{{SCALE}}}", "float one = {1.0}", "float low = {-3.4e38}",
            "int64[2] middle = {1, 2}",
            "int64 first = {0}", "int64[1] ax0 = {0}", "int64[1] ax1 = {1}", "int64[1] ax2 = {2}",
            "int64[1] ax3 = {3}",
            f"int64[2] by_head = {{{HEADS}, {SIZE}}}", f"int64[1] joined = {{{WIDTH}}}",
            f"int64[4] split = {{-1, {self.length or 1}, {HEADS}, {SIZE}}}",
            f"int64[3] join = {{-1, {self.length or 1}, {WIDTH}}}",
        ]  # fmt: skip
        inputs = f"float[B, {tokens}, {WIDTH}] x" + (f", int64[B, {tokens}] mask" if self.masked else "")
        lines = "\n".join(body)
        return parse(
            f'<ir_version: 10, opset_import: ["" : 20]>\nnet ({inputs}) => (float{out} y)\n'
            f"<{', '.join(constants)}> {{\n{lines}\n}}"
        )

    def _sides(self) -> list[str]:
        lines: list[str] = []
        if self.length is None:
            lines += [
                "dims = Shape(x)", "lead = Slice(dims, ax0, ax2)",
                "split_to = Concat<axis = 0>(lead, by_head)", "join_to = Concat<axis = 0>(lead, joined)",
            ]  # fmt: skip
        if self.masked:
            lines += [
                "real = Cast<to = 9>(mask)",
                "wide = Unsqueeze(real, middle)",
                "pen0 = Where(wide, zero_f, low)",
            ]
            lines.insert(0, "zero_f = Sub(one, one)")
            lines.append("square = Shape(x)")
            lines += ["side = Slice(square, ax1, ax2)", "queries = Concat<axis = 0>(ax1, ax1, side, ax1)"]
            lines.append("shut = Expand(pen0, queries)")  # [B, 1, T, T], as exporters write masks
        if self.biased and self.length is None:
            lines += ["tt = Shape<start = 1, end = 2>(x)", "ends = Concat<axis = 0>(tt, tt)"]
            lines += ["starts = Concat<axis = 0>(ax0, ax0)", "axes = Concat<axis = 0>(ax2, ax3)"]
            lines.append("bias = Slice(table, starts, ends, axes)")
        return lines

    def _layer(self, layer: int, stream: str) -> list[str]:
        split, join = ("split", "join") if self.length else ("split_to", "join_to")
        source = stream if self.post_norm else f"a{layer}_n"
        lines = [] if self.post_norm else [f"{source} = LayerNormalization({stream}, n{layer})"]
        for name in "qkv":
            order = "[0, 2, 3, 1]" if name == "k" else "[0, 2, 1, 3]"
            lines += [
                f"{name}{layer}_p = MatMul({source}, w{name}{layer})",
                f"{name}{layer}_b = Add({name}{layer}_p, b{name}{layer})",
                f"{name}{layer}_s = Reshape({name}{layer}_b, {split})",
                f"{name}{layer} = Transpose<perm = {order}>({name}{layer}_s)",
            ]
        lines += [f"r{layer} = MatMul(q{layer}, k{layer})", f"c{layer} = Mul(r{layer}, scale)"]
        scores = f"c{layer}"
        if self.biased:
            table = "table" if self.length else "bias"
            lines.append(f"t{layer} = Add({scores}, {table})")
            scores = f"t{layer}"
        if self.masked:
            lines.append(f"s{layer} = Add({scores}, shut)")
            scores = f"s{layer}"
        summed, normed = (f"u{layer}", f"x{layer}") if self.post_norm else (f"x{layer}", f"f{layer}_n")
        lines += [
            f"p{layer} = Softmax({scores})",
            f"z{layer} = MatMul(p{layer}, v{layer})",
            f"z{layer}_t = Transpose<perm = [0, 2, 1, 3]>(z{layer})",
            f"z{layer}_j = Reshape(z{layer}_t, {join})",
            f"o{layer}_p = MatMul(z{layer}_j, wo{layer})",
            f"o{layer} = Add(o{layer}_p, bo{layer})",
            f"{summed} = Add({stream}, o{layer})",
            f"{normed} = LayerNormalization({summed}, {'n' if self.post_norm else 'm'}{layer})",
            f"f{layer} = MatMul({normed}, wf{layer})",
            f"g{layer} = Gelu(f{layer})",
            f"d{layer} = MatMul(g{layer}, wg{layer})",
        ]
        if self.post_norm:
            lines += [
                f"e{layer} = Add(x{layer}, d{layer})",
                f"h{layer + 1} = LayerNormalization(e{layer}, m{layer})",
            ]
        else:
            lines.append(f"h{layer + 1} = Add(x{layer}, d{layer})")
        return lines

    def _head(self, stream: str) -> list[str]:
        if self.head == "tokens":
            return [f"y = MatMul({stream}, wy)"]
        if self.head == "first":
            return [f"pooled = Gather<axis = 1>({stream}, first)", "y = MatMul(pooled, wy)"]
        if not self.masked:
            return [f"pooled = ReduceMean<keepdims = 0>({stream}, ax1)", "y = MatMul(pooled, wy)"]
        return [
            "mf = Cast<to = 1>(mask)", "m3 = Unsqueeze(mf, ax2)", f"weighed = Mul({stream}, m3)",
            "total = ReduceSum<keepdims = 0>(weighed, ax1)", "count = ReduceSum(mf, ax1)",
            "pooled = Div(total, count)", "y = MatMul(pooled, wy)",
        ]  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """Samples of 1 to ``LONGEST`` tokens, as ``budgeted.Samples``; padding holds noise."""

    count: int = 24
    masked: bool = True
    length: int | None = None

    def __len__(self) -> int:
        return self.count

    def tokens(self, index: int) -> Floats:
        """One sample, [T, C]."""
        length = self.length or 1 + (index * 4) % LONGEST
        return weight(1000 + index, length, WIDTH)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int], width: int | None = None) -> Feeds:
        rows = [self.tokens(index) for index in indices]
        width = width or max(len(row) for row in rows)
        x = weight(9999, len(rows), width, WIDTH)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            x[place, : len(row)], mask[place, : len(row)] = row, 1
        return {"x": x, "mask": mask} if self.masked else {"x": x}

    @property
    def labels(self) -> Array | None:
        return None


@dataclass(frozen=True)
class Reference:
    """The network in NumPy on one sample without padding; ``kept`` says how many tokens stay by layer."""

    net: Net
    settings: Mapping[int, str]
    """By layer; ``keep-0.5``, ``merge-0.5`` or ``mass-0.9``."""

    def run(self, x: Floats) -> Floats:
        w = self.net.weights()
        stream, size = np.asarray(x @ w["embed"], np.float32), np.ones(len(x), np.float32)
        whole = stream.copy()
        place: Places = np.arange(len(x))
        for layer in range(self.net.layers):
            stream, size, place = self._layer(w, layer, stream, size, place, whole)
        if self.net.head == "first":
            return np.asarray(stream[0] @ w["wy"], np.float32)
        whole[place] = stream
        rows = np.asarray(whole @ w["wy"], np.float32)
        return rows if self.net.head == "tokens" else rows.mean(0)

    def _layer(
        self, w: Mapping[str, Floats], layer: int, stream: Floats, size: Floats, place: Places, whole: Floats
    ) -> tuple[Floats, Floats, Places]:
        source = stream if self.net.post_norm else _norm(stream, w[f"n{layer}"])
        q, k, v = (_heads(source @ w[f"w{name}{layer}"] + w[f"b{name}{layer}"]) for name in "qkv")
        scores = SCALE * q @ k.transpose(0, 2, 1)
        if self.net.biased:
            scores = scores + w["table"][0][:, place][:, :, place]
        shares = np.asarray(softmax(scores + np.log(size), axis=-1), np.float32)
        joined = (shares @ v).transpose(1, 0, 2).reshape(len(stream), WIDTH)
        x = np.asarray(stream + joined @ w[f"wo{layer}"] + w[f"bo{layer}"], np.float32)
        if self.net.post_norm:
            x = _norm(x, w[f"n{layer}"])
        if layer in self.settings:
            x, size, place = self._fewer(self.settings[layer], x, size, place, whole, (shares, k, v))
        inside = x if self.net.post_norm else _norm(x, w[f"m{layer}"])
        hidden = inside @ w[f"wf{layer}"]
        active: Floats = np.asarray(0.5 * hidden * (1 + erf(hidden / np.sqrt(2))), np.float32)
        y = np.asarray(x + active @ w[f"wg{layer}"], np.float32)
        return (_norm(y, w[f"m{layer}"]) if self.net.post_norm else y), size, place

    def _fewer(
        self,
        setting: str,
        x: Floats,
        size: Floats,
        place: Places,
        whole: Floats,
        parts: tuple[Floats, Floats, Floats],
    ) -> tuple[Floats, Floats, Places]:
        shares, keys, values = parts
        rule, share = setting.split("-")
        if self.net.head == "first":
            score = (shares[:, 0] * np.linalg.norm(values, axis=-1)).sum(0)
        else:
            score = shares.sum((0, 1))
        ranked = score.copy()
        first = self.net.head == "first"
        if first:
            ranked[0] = np.inf
        kept = best_tokens(ranked, _count(rule, float(share), score, first=first))
        whole[place] = x
        if rule != "merge":
            return x[kept], size[kept], place[kept]
        takes = [not first or position != 0 for position in kept]
        y, total = merged(x, keys.mean(0), size, kept, takes)
        return y, total, place[kept]


def _count(rule: str, share: float, score: Floats, *, first: bool) -> int:
    if rule != "mass":
        return max(1, -(-len(score) * round(1000 * share) // 1000))
    mass = np.sort(score[1:] if first else score)[::-1]
    before = np.cumsum(mass) - mass
    return max(1, int((before < share * mass.sum()).sum()) + first)


def _heads(value: Floats) -> Floats:
    return value.reshape(len(value), HEADS, SIZE).transpose(1, 0, 2)


def _norm(value: Floats, scale: Floats) -> Floats:
    centred = value - value.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * scale, np.float32)
