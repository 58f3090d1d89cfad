"""Small residual networks that blocks are taken out of, and how far that moves them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Choice
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.text import clone, parse
from adapass.passes.prune.remove_blocks import RemoveBlocks
from tests.passes.rows import Rows, literal, weight


def constant(name: str, array: npt.NDArray[np.floating]) -> str:
    return f"float[{', '.join(map(str, array.shape))}] {name} = {literal(array)}"


def residual_net() -> ir.Model:
    """A stem and four residual blocks of convolutions, the third with half the size and a padded shortcut."""
    constants = [constant("w0", weight(0, 6, 3, 3, 3, scale=0.3)), constant("b0", weight(1, 6))]
    body = ["c0 = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)", "r0 = Relu(c0)"]
    widths = [6, 6, 6, 9, 9]
    for i in range(1, 5):
        before, after = widths[i - 1], widths[i]
        stride = 1 if before == after else 2
        constants += [
            constant(f"w{i}", weight(10 * i, after, before, 3, 3, scale=0.2)),
            constant(f"b{i}", weight(10 * i + 1, after, scale=0.3)),
            constant(f"v{i}", weight(10 * i + 2, after, after, 3, 3, scale=0.1)),
            constant(f"d{i}", weight(10 * i + 3, after, scale=0.3)),
        ]
        source = f"r{i - 1}"
        if stride == 2:
            body += [f"cut = Slice({source}, starts, ends, axes, steps)", "padded = Pad(cut, pads)"]
            constants += [
                "int64[2] starts = {0, 0}, int64[2] ends = {100, 100}, int64[2] axes = {2, 3}",
                "int64[2] steps = {2, 2}, int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}",
            ]
        body += [
            f"a{i} = Conv<pads = [1, 1, 1, 1], strides = [{stride}, {stride}]>({source}, w{i}, b{i})",
            f"h{i} = Relu(a{i})",
            f"f{i} = Conv<pads = [1, 1, 1, 1]>(h{i}, v{i}, d{i})",
            f"s{i} = Add({'padded' if stride == 2 else source}, f{i})",
            f"r{i} = Relu(s{i})",
        ]
    constants += [constant("wy", weight(99, 9, 5)), "int64[2] last = {2, 3}"]
    body += ["m = ReduceMean<keepdims = 0>(r4, last)", "y = MatMul(m, wy)"]
    lines = "\n".join(body)
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, 3, 8, 8] x) => (float[N, 5] y) <{', '.join(constants)}> {{ {lines} }}"
    )


def bottleneck() -> ir.Model:
    """One block 8 -> 2 -> 2 -> 8."""
    constants = [
        constant("u", weight(3, 8, 8, 1, 1)),
        constant("w", weight(0, 2, 8, 1, 1)),
        constant("k", weight(1, 2, 2, 3, 3)),
        constant("v", weight(2, 8, 2, 1, 1)),
    ]
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) <{', '.join(constants)}> {{\n"
        "g = Conv(x, u)\nr = Relu(g)\na = Conv(r, w)\nb = Relu(a)\n"
        "c = Conv<pads = [1, 1, 1, 1]>(b, k)\nd = Relu(c)\ne = Conv(d, v)\n"
        "s = Add(r, e)\ny = Relu(s) }"
    )


def transformer(*, post_norm: bool) -> ir.Model:
    """Two layers of one-head attention and a feed-forward part on [N, T, 8], then the mean and a product."""
    constants: list[str] = []
    body: list[str] = []

    def normed(source: str, name: str) -> str:
        constants.append(constant(f"{name}_g", 1.0 + weight(len(constants), 8, scale=0.1)))
        constants.append(constant(f"{name}_b", weight(len(constants), 8, scale=0.1)))
        body.append(f"{name} = LayerNormalization({source}, {name}_g, {name}_b)")
        return name

    def product(source: str, name: str, shape: tuple[int, int], scale: float) -> str:
        constants.append(constant(f"{name}_w", weight(len(constants), *shape, scale=scale)))
        constants.append(constant(f"{name}_c", weight(len(constants), shape[1], scale=0.2)))
        body.extend([f"{name}_p = MatMul({source}, {name}_w)", f"{name} = Add({name}_p, {name}_c)"])
        return name

    stream = (
        normed(product("x", "embed", (8, 8), 0.5), "n0") if post_norm else product("x", "embed", (8, 8), 0.5)
    )
    for i in (1, 2):
        for part in ("att", "ffn"):
            source = stream if post_norm else normed(stream, f"{part}{i}_n")
            if part == "att":
                q, k, v = (product(source, f"{part}{i}_{role}", (8, 8), 0.4) for role in "qkv")
                body.append(f"att{i}_t = Transpose<perm = [0, 2, 1]>({k})")
                body.append(f"att{i}_s = MatMul({q}, att{i}_t)")
                body.append(f"att{i}_a = Softmax(att{i}_s)")
                body.append(f"att{i}_m = MatMul(att{i}_a, {v})")
                result = product(f"att{i}_m", f"att{i}_o", (8, 8), 0.3)
            else:
                hidden = product(source, f"ffn{i}_1", (8, 24), 0.5)
                body.append(f"ffn{i}_g = Gelu({hidden})")
                result = product(f"ffn{i}_g", f"ffn{i}_2", (24, 8), 0.15)
            body.append(f"{part}{i} = Add({stream}, {result})")
            stream = normed(f"{part}{i}", f"{part}{i}_n") if post_norm else f"{part}{i}"
    constants += [constant("wy", weight(99, 8, 5)), "int64[1] last = {1}"]
    body += [f"m = ReduceMean<keepdims = 0>({stream}, last)", "y = MatMul(m, wy)"]
    lines = "\n".join(body)
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, T, 8] x) => (float[N, 5] y) <{', '.join(constants)}> {{ {lines} }}"
    )


IMAGES = Rows({"x": weight(7, 80, 3, 8, 8)})
TOKENS = Rows({"x": weight(8, 120, 6, 8)})


def error(a: ir.Model, b: ir.Model, data: Rows) -> float:
    feeds = data.batch(range(len(data)))
    one, two = (Session(m).run(feeds)["y"].astype(np.float64) for m in (a, b))
    assert one.shape == two.shape
    return float(np.mean((one - two) ** 2) / np.mean(one**2))


def chosen(model: ir.Model, sites: Mapping[str, str], step: RemoveBlocks, data: Rows | None) -> ir.Model:
    copy = clone(model)
    choices = [Choice("remove-blocks", site, setting) for site, setting in sites.items()]
    assert step.apply(copy, FactCache(copy), choices).applied == len(sites)
    step.fit(copy, data)
    check_structure(copy)
    return copy


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def numbers(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
