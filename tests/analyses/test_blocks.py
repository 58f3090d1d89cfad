"""Blocks, attention, feed-forward parts and the token mask of small models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapass.analyses.attention import AttentionCores
from adapass.analyses.blocks import Blocks
from adapass.analyses.cut_points import CutPoints
from adapass.analyses.feed_forward import FeedForwards
from adapass.analyses.token_mask import TokenMask
from adapass.facts import FactCache

Build = Callable[..., FactCache]

WEIGHTS = {
    **dict.fromkeys(("wq", "wk", "wv", "wo", "we", "wx"), (8, 8)),
    "w1": (8, 16),
    "wg": (8, 16),
    "w2": (16, 8),
    "v": (8,),
    "head": (8, 2),
    "table": (50, 8),
    "pair": (8, 32),
}


def layer(number: int, entry: str) -> str:
    """A post-norm layer with two heads; ends in ``n{number}b``."""
    n = number
    return f"""
        q{n} = MatMul({entry}, wq) k{n} = MatMul({entry}, wk) u{n} = MatMul({entry}, wv)
        qs{n} = Reshape(q{n}, split) ks{n} = Reshape(k{n}, split) us{n} = Reshape(u{n}, split)
        qh{n} = Transpose<perm = [0, 2, 1, 3]>(qs{n}) kh{n} = Transpose<perm = [0, 2, 3, 1]>(ks{n})
        uh{n} = Transpose<perm = [0, 2, 1, 3]>(us{n})
        s{n} = MatMul(qh{n}, kh{n}) d{n} = Div(s{n}, scale) m{n} = Add(d{n}, bias) p{n} = Softmax(m{n})
        c{n} = MatMul(p{n}, uh{n}) t{n} = Transpose<perm = [0, 2, 1, 3]>(c{n}) j{n} = Reshape(t{n}, join)
        o{n} = MatMul(j{n}, wo) ra{n} = Add({entry}, o{n}) n{n}a = LayerNormalization(ra{n}, v)
        h{n} = MatMul(n{n}a, w1) g{n} = Gelu(h{n}) f{n} = MatMul(g{n}, w2)
        rb{n} = Add(n{n}a, f{n}) n{n}b = LayerNormalization(rb{n}, v)
    """


START = """
    split = Constant<value_ints = [0, 0, 2, 4]>() join = Constant<value_ints = [0, 0, 8]>()
    scale = Constant<value_float = 2.0>() one = Constant<value_float = 1.0>()
    low = Constant<value_float = -10000.0>() axes = Constant<value_ints = [1, 2]>()
    float_mask = Cast<to = 1>(mask) away = Sub(one, float_mask) scaled = Mul(away, low)
    bias = Unsqueeze(scaled, axes) e = Gather(table, ids)
"""
TRANSFORMER = f"""
    {START} {layer(1, "e")} {layer(2, "n1b")}
    zero = Constant<value_int = 0>() cls = Gather<axis = 1>(n2b, zero) y = MatMul(cls, head)
"""


@pytest.fixture
def transformer(build: Build) -> FactCache:
    return build("int64[B, T] ids, int64[B, T] mask", "float[B, 2] y", WEIGHTS, TRANSFORMER)


def test_layers_of_a_transformer(transformer: FactCache) -> None:
    blocks = transformer.get(Blocks)

    assert [(block.entry, block.exit) for block in blocks.blocks] == [("e", "n1b"), ("n1b", "n2b")]
    assert all(block.attention and block.residual and len(block.regions) == 2 for block in blocks.blocks)
    assert blocks.repeats == ((0, 1),)
    assert blocks.streams == (("ra1", "rb1", "ra2", "rb2"),)


def test_cut_points_know_which_block_they_end(transformer: FactCache) -> None:
    ends = {point.value: point.block for point in transformer.get(CutPoints).points}

    assert ends == {"e": None, "n1a": None, "n1b": 0, "n2a": None, "n2b": 1}


def test_the_last_layer_of_a_model_without_a_head(build: Build) -> None:
    body = f"{START} {layer(1, 'e')} {layer(2, 'n1b')}"
    blocks = build("int64[B, T] ids, int64[B, T] mask", "float[B, T, 8] n2b", WEIGHTS, body).get(Blocks)

    assert [(block.entry, block.exit) for block in blocks.blocks] == [("e", "n1b"), ("n1b", "n2b")]
    assert blocks.repeats == ((0, 1),)


def test_attention_written_out(transformer: FactCache) -> None:
    first, _ = transformer.get(AttentionCores).cores

    assert (first.query, first.key, first.value, first.context) == ("qh1", "kh1", "uh1", "c1")
    assert (first.heads, first.head_size, first.masks) == (2, 4, ("bias",))


def test_attention_as_one_operator(build: Build) -> None:
    body = """
        q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wv)
        c = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, u) o = MatMul(c, wo) y = Add(x, o)
    """
    facts = build("float[B, 6, 8] x", "float[B, 6, 8] y", WEIGHTS, body, opset=23)
    (core,) = facts.get(AttentionCores).cores

    assert (core.query, core.key, core.value, core.context) == ("q", "k", "u", "c")
    assert (core.heads, core.head_size) == (2, 4)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("h = MatMul(x, wq) p = Softmax(h) o = MatMul(p, wk) y = Add(o, h)", id="over-classes"),
        pytest.param("h = MatMul(x, wq) p = Softmax(h) o = MatMul(p, x) y = Add(o, h)", id="fixed-keys"),
        pytest.param(
            "q = MatMul(x, wq) k = MatMul(x, wk) s = MatMul(q, k) p = Softmax(s) o = MatMul(q, p) "
            "y = Add(o, q)",
            id="probabilities-on-the-right",
        ),
    ],
)
def test_a_softmax_that_is_no_attention(build: Build, body: str) -> None:
    assert build("float[B, 8, 8] x", "float[B, 8, 8] y", WEIGHTS, body).get(AttentionCores).cores == ()


def test_a_sum_of_heads_at_the_end_is_no_block(build: Build) -> None:
    body = "e = MatMul(x, we) a = MatMul(e, head) r = Relu(e) b = MatMul(r, head) y = Add(a, b)"
    facts = build("float[B, 8] x", "float[B, 2] y", WEIGHTS, body)

    assert [point.value for point in facts.get(CutPoints).points] == ["e"]
    assert facts.get(Blocks).blocks == ()


def test_equal_blocks_apart_are_not_one_run(build: Build) -> None:
    def residual(number: int, entry: str) -> str:
        n = number
        return f"c{n} = MatMul({entry}, we) s{n} = Add(c{n}, {entry}) r{n} = Relu(s{n})"

    body = f"""
        e = MatMul(x, wq) {residual(1, "e")} {residual(2, "r1")}
        o = MatMul(r2, wo) t = Tanh(o) {residual(3, "t")} {residual(4, "r3")} y = MatMul(r4, head)
    """
    blocks = build("float[B, 8] x", "float[B, 2] y", WEIGHTS, body).get(Blocks)

    assert [block.exit for block in blocks.blocks] == ["r1", "r2", "r3", "r4"]
    assert blocks.repeats == ((0, 1), (2, 3))


def test_feed_forward_parts(transformer: FactCache) -> None:
    first, second = transformer.get(FeedForwards).parts

    assert (first.entry, first.exit, first.hidden, first.gated) == ("n1a", "f1", 16, False)
    assert second.entry == "n2a"


QUANTIZED = """
    e = MatMul(x, we) n = LayerNormalization(e, v)
    c1 = Cast<to = 2>(w1) c2 = Cast<to = 2>(w2)
    nq, ns, nz = DynamicQuantizeLinear(n) hi = MatMulInteger(nq, c1, nz) hf = Cast<to = 1>(hi) h = Mul(hf, ns)
    g = Gelu(h)
    gq, gs, gz = DynamicQuantizeLinear(g) oi = MatMulInteger(gq, c2, gz) of = Cast<to = 1>(oi) o = Mul(of, gs)
    y = Add(e, o)
"""


def test_a_quantized_feed_forward_part(build: Build) -> None:
    (part,) = build("float[B, 6, 8] x", "float[B, 6, 8] y", WEIGHTS, QUANTIZED).get(FeedForwards).parts

    assert (part.entry, part.exit, part.hidden, part.gated) == ("n", "oi", 16, False)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param(
            "h = MatMul(n, w1) g = Relu(h) o = MatMul(g, w2) y = Add(e, o)", (16, False), id="pre-norm"
        ),
        pytest.param(
            "h = MatMul(n, w1) g = MatMul(n, wg) i = Sigmoid(g) k = Mul(g, i) l = Mul(k, h) "
            "o = MatMul(l, w2) y = Add(e, o)",
            (16, True),
            id="gated",
        ),
        pytest.param(
            "h = MatMul(n, pair) a, b = Split<axis = -1, num_outputs = 2>(h) g = Sigmoid(a) l = Mul(g, b) "
            "o = MatMul(l, w2) y = Add(e, o)",
            (16, True),
            id="gated-in-one",
        ),
        pytest.param(
            "rows = Constant<value_ints = [-1, 8]>() s = Shape(n) r = Reshape(n, rows) h = Gemm(r, w1) "
            "g = Tanh(h) o = Gemm(g, w2) back = Reshape(o, s) y = Add(e, back)",
            (16, False),
            id="flattened",
        ),
        pytest.param(
            "rows = Constant<value_ints = [-1, 8]>() s = Shape(n) r = Reshape(n, rows) h = Gemm(r, w1) "
            "g = Tanh(h) o = Gemm<transB = 1>(g, wg) back = Reshape(o, s) y = Add(e, back)",
            (16, False),
            id="transposed-weight",
        ),
        pytest.param("h = MatMul(x, w1) g = Relu(h) o = MatMul(g, w2) y = Add(e, o)", None, id="unrelated"),
        pytest.param("h = MatMul(n, w1) o = MatMul(h, w2) y = Add(e, o)", None, id="no-activation"),
        pytest.param("h = MatMul(n, w1) g = Relu(h) y = MatMul(g, w2)", None, id="no-residual"),
        pytest.param(
            "h = MatMul(n, w1) g = Relu(h) l = LayerNormalization(g, v16) o = MatMul(l, w2) y = Add(e, o)",
            None,
            id="normalised-between",
        ),
        pytest.param(
            "h = MatMul(n, w1) g = Relu(h) o = MatMul(g, w2) y = Add(x, o)", None, id="added-to-an-input"
        ),
    ],
)
def test_what_counts_as_feed_forward(build: Build, body: str, found: tuple[int, bool] | None) -> None:
    start = "e = MatMul(x, we) n = LayerNormalization(e, v)"
    parts = (
        build("float[B, 6, 8] x", "float[B, 6, 8] y", WEIGHTS | {"v16": (16,)}, f"{start} {body}")
        .get(FeedForwards)
        .parts
    )

    assert [(part.hidden, part.gated) for part in parts] == ([] if found is None else [found])


def test_the_token_mask(transformer: FactCache) -> None:
    mask = transformer.get(TokenMask)

    assert (mask.input, mask.batch_axis, mask.token_axis) == ("mask", 0, 1)


def test_a_mask_that_weighs_the_mean(build: Build) -> None:
    body = """
        e = Gather(table, ids) h = MatMul(e, wq) f = Cast<to = 1>(mask) last = Constant<value_ints = [2]>()
        wide = Unsqueeze(f, last) z = Mul(h, wide) tokens = Constant<value_ints = [1]>()
        s = ReduceSum<keepdims = 0>(z, tokens) n = ReduceSum<keepdims = 0>(wide, tokens) m = Div(s, n)
        y = MatMul(m, head)
    """
    facts = build("int64[B, T] ids, int64[B, T] mask", "float[B, 2] y", WEIGHTS, body)

    assert facts.get(TokenMask).input == "mask"


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        pytest.param("int64[B, T] ids", "e = Gather(table, ids) y = MatMul(e, head)", id="ids-only"),
        pytest.param(
            "int64[B, T] ids, int64[B, T] segments",
            "e = Gather(table, ids) i = Cast<to = 6>(segments) s = Gather(kinds, i) a = Add(e, s) "
            "y = MatMul(a, head)",
            id="segments",
        ),
        pytest.param(
            "float[B, 8] x, float[B, 8] z", "e = MatMul(x, we) a = Add(e, z) y = MatMul(a, head)", id="vector"
        ),
    ],
)
def test_what_is_no_token_mask(build: Build, inputs: str, body: str) -> None:
    outputs = "float[B, 2] y" if "float" in inputs else "float[B, T, 2] y"
    facts = build(inputs, outputs, WEIGHTS | {"kinds": (2, 8)}, body)

    assert facts.get(TokenMask).input is None


ATTENDING = """
    e = Gather(table, ids) q = MatMul(e, wq) k = MatMul(e, wk) u = MatMul(e, wv)
    kt = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, kt) {mix} p = Softmax(m) c = MatMul(p, u) y = MatMul(c, head)
"""


@pytest.mark.parametrize(
    ("extra", "mix", "mask"),
    [
        pytest.param(
            "bool[B, T] keep", "a = Unsqueeze(keep, axis) m = Where(a, s, low)", "keep", id="selects"
        ),
        pytest.param(
            "int64[B, T] marks",
            "b = Gather(bias, marks) a = Unsqueeze(b, axis) m = Add(s, a)",
            None,
            id="ids",
        ),
        pytest.param(
            "float[B, 1] warmth", "a = Unsqueeze(warmth, axis) m = Mul(s, a)", None, id="temperature"
        ),
    ],
)
def test_masks_in_attention(build: Build, extra: str, mix: str, mask: str | None) -> None:
    constants = "axis = Constant<value_ints = [1]>() low = Constant<value_float = -10000.0>()"
    body = constants + ATTENDING.format(mix=mix)
    facts = build(f"int64[B, T] ids, {extra}", "float[B, T, 2] y", WEIGHTS | {"bias": (2,)}, body)

    assert len(facts.get(AttentionCores).cores) == 1
    assert facts.get(TokenMask).input == mask


def test_convolution_blocks_without_residual_need_equal_neighbours(build: Build) -> None:
    kernels = {"a": (3, 3, 1, 1), "b": (3, 3, 1, 1), "c": (3, 3, 1, 1), "m": (3, 2)}
    body = """
        c1 = Conv(x, a) s1 = Sigmoid(c1) c2 = Conv(s1, b) r2 = Relu(c2) c3 = Conv(r2, c) r3 = Relu(c3)
        p = GlobalAveragePool(r3) f = Flatten(p) y = MatMul(f, m)
    """
    blocks = build("float[B, 3, 8, 8] x", "float[B, 2] y", kernels, body).get(Blocks)

    assert [(block.entry, block.exit, block.residual) for block in blocks.blocks] == [
        ("s1", "r2", False),
        ("r2", "r3", False),
    ]


def test_residual_blocks_of_different_shape_are_not_repeats(build: Build) -> None:
    kernels = {
        "s": (3, 3, 1, 1),
        "a": (3, 3, 1, 1),
        "b": (3, 3, 1, 1),
        "c": (6, 3, 1, 1),
        "d": (6, 3, 1, 1),
        "m": (6, 2),
    }
    body = """
        e = Conv(x, s) r0 = Relu(e)
        c1 = Conv(r0, a) s1 = Add(c1, r0) r1 = Relu(s1) c2 = Conv(r1, b) s2 = Add(c2, r1) r2 = Relu(s2)
        c3 = Conv(r2, c) d3 = Conv(r2, d) s3 = Add(c3, d3) r3 = Relu(s3)
        p = GlobalAveragePool(r3) f = Flatten(p) y = MatMul(f, m)
    """
    blocks = build("float[B, 3, 8, 8] x", "float[B, 2] y", kernels, body).get(Blocks)

    assert [block.exit for block in blocks.blocks] == ["r1", "r2", "r3"]
    assert all(block.residual for block in blocks.blocks)
    assert blocks.repeats == ((0, 1),)
