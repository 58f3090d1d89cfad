"""Links: which channels can be rescaled, and that nothing changes when they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.graph.check import check_structure
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.text import parse
from adapass.passes.quantize.rescaling.find import find_links
from adapass.passes.quantize.rescaling.links import rescale
from adapass.passes.quantize.rescaling.places import NOT_APART
from adapass.rewrite import Reject
from adapass.verification import compare
from tests.passes.quantize.conftest import HEADER
from tests.passes.quantize.rescaling.hard_models import uneven_blocks, uneven_mlp
from tests.passes.rows import literal, weight


def conv_net(between: str, *, last: str = "y", consts: str = "", size: int = 8) -> ir.Model:
    """``c = Conv(x, w1, b1)``, then ``between``, which makes ``v`` of it, then ``Conv(v, w2)``."""
    return parse(
        f"""
        {HEADER}
        net (float[N, 3, {size}, {size}] x) => (float[N, P, Q, R] {last})
        <float[8, 3, 3, 3] w1 = {literal(weight(1, 8, 3, 3, 3))}, float[8] b1 = {literal(weight(2, 8))},
         float[4, 8, 1, 1] w2 = {literal(weight(3, 4, 8, 1, 1))} {consts}>
        {{
            c = Conv(x, w1, b1)
            {between}
            y = Conv(v, w2)
        }}
        """
    )


def attention() -> ir.Model:
    """Two heads of four channels; queries, keys and values with biases."""
    products = "\n".join(
        f"{n}p = MatMul(x, w{n})\n{n}b = Add({n}p, b{n})\n{n}h = Reshape({n}b, split)" for n in "qkv"
    )
    stored = ", ".join(
        f"float[8, 8] w{n} = {literal(weight(i, 8, 8))}, float[8] b{n} = {literal(weight(i + 5, 8))}"
        for i, n in enumerate("qkv")
    )
    return parse(
        f"""
        {HEADER}
        net (float[N, 5, 8] x) => (float[N, 5, 8] y)
        <{stored}, float[8, 8] wo = {literal(weight(9, 8, 8))}, float half = {{0.5}},
         int64[4] split = {{0, 0, 2, 4}}, int64[3] join = {{0, 0, 8}}>
        {{
            {products}
            qt = Transpose<perm = [0, 2, 1, 3]>(qh)
            kt = Transpose<perm = [0, 2, 3, 1]>(kh)
            vt = Transpose<perm = [0, 2, 1, 3]>(vh)
            qs = Mul(qt, half)
            scores = MatMul(qs, kt)
            share = Softmax(scores)
            mixed = MatMul(share, vt)
            back = Transpose<perm = [0, 2, 1, 3]>(mixed)
            joined = Reshape(back, join)
            y = MatMul(joined, wo)
        }}
        """
    )


CONV = [
    pytest.param("v = Relu(c)", id="relu"),
    pytest.param("v = Identity(c)", id="nothing"),
    pytest.param("v = LeakyRelu<alpha = 0.3>(c)", id="leaky-relu"),
    pytest.param("r = Clip(c, zero)\nv = MaxPool<kernel_shape = [2, 2]>(r)", id="clip-at-zero-and-pool"),
    pytest.param("a = Add(c, each)\nv = Mul(a, each)", id="constants-a-channel"),
    pytest.param("a = Sub(each, c)\nv = Div(a, half)", id="subtracted-from-a-constant"),
    pytest.param("v = AveragePool<kernel_shape = [2, 2]>(c)", id="average"),
    pytest.param("v = ReduceMean<keepdims = 1>(c, axes)", id="mean"),
]
CONSTS = (
    f", float zero = {{0.0}}, float half = {{0.5}}, float[8, 1, 1] each = {literal(weight(7, 8, 1, 1))}"
    ", int64[2] axes = {2, 3}"
)


def assert_exact(model: ir.Model, count: int) -> None:
    """Rescaling all links by random numbers leaves the outputs as they were."""
    result = model.clone()
    links, _ = find_links(result)
    assert len(links) == count
    for index, link in enumerate(links):
        rescale(result.graph, link, np.exp(np.random.default_rng(index).normal(size=link.channels)))
    remove_dead_nodes(result)
    check_structure(result)
    assert compare(model, result).worst().relative_max < 1e-5


@pytest.mark.parametrize("between", CONV)
def test_scales_through_what_leaves_channels_apart(between: str) -> None:
    assert_exact(conv_net(between, consts=CONSTS), 1)


def test_a_grouped_convolution_reads_block_by_block() -> None:
    consts = f", float[16, 4, 3, 3] g = {literal(weight(5, 16, 4, 3, 3))}"
    model = conv_net("r = Relu(c)\ng1 = Conv<group = 2>(r, g)\nv = MaxPool<kernel_shape = [2, 2]>(g1)",
                     consts=consts)  # fmt: skip
    weight_ = model.graph.initializers["w2"]
    weight_.const_value = ir.tensor(weight(3, 4, 16, 1, 1), name="w2")
    weight_.shape = ir.Shape([4, 16, 1, 1])

    assert_exact(model, 2)


def test_depthwise_convolutions_and_normalisations() -> None:
    assert_exact(uneven_blocks(), 4)
    assert_exact(uneven_mlp(), 3)


def test_a_flattened_image_and_several_readers_share_one_scale() -> None:
    model = parse(
        f"""
        {HEADER}
        net (float[N, 3, 4, 4] x) => (float[N, 5] y, float[N, 2] z)
        <float[8, 3, 3, 3] w1 = {literal(weight(1, 8, 3, 3, 3))}, float[8] b1 = {literal(weight(2, 8))},
         float[5, 32] w2 = {literal(weight(3, 5, 32))}, float[32, 2] w3 = {literal(weight(4, 32, 2))}>
        {{
            c = Conv(x, w1, b1)
            r = Relu(c)
            f = Flatten(r)
            y = Gemm<transB = 1>(f, w2)
            z = MatMul(f, w3)
        }}
        """
    )

    assert_exact(model, 1)
    assert len(find_links(model)[0][0].multiplied) == 2


def test_attention_links_queries_to_keys_and_values_to_the_projection() -> None:
    model = attention()
    links, _ = find_links(model)

    assert [(link.name, len(link.reads)) for link in links] == [("qp", 0), ("vp", 1)]
    assert_exact(model, 2)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ("s = Sigmoid(c)\nv = Mul(c, s)", NOT_APART),
        ("v = Clip(c, zero, six)", NOT_APART),
        ("a = Abs(c)\nv = Add(a, c)", "it is added to another value"),
        ("r = Relu(c)\nv = Mul(c, r)", "the channels meet themselves"),
        ("v = Softmax<axis = 1>(c)", NOT_APART),
        ("v = Div(six, c)", NOT_APART),
        ("v = ReduceMean<keepdims = 1>(c, channel)", NOT_APART),
    ],
)  # fmt: skip
def test_refuses_and_says_why(between: str, reason: str) -> None:
    consts = ", float zero = {0.0}, float six = {6.0}, int64[1] channel = {1}"
    model = conv_net(between, consts=consts)

    links, refusals = find_links(model)

    assert links == ()
    assert {r.reason for r in refusals if r.site == "c"} == {reason}


def test_a_returned_value_keeps_its_numbers() -> None:
    links, refusals = find_links(conv_net("v = Relu(c)", last="c"))

    assert links == ()
    assert [r.reason for r in refusals if r.site == "c"] == ["the model returns it"]


def test_a_query_without_its_key_is_refused() -> None:
    model = attention()
    next(node for node in model.graph if node.outputs[0].name == "kb").op_type = "Pow"

    links, refusals = find_links(model)

    assert [link.name for link in links] == ["vp"]
    assert ("qp", "the other operand of a product cannot be rescaled") in {
        (r.site, r.reason) for r in refusals
    }


def test_a_constant_with_another_reader_is_left_to_it() -> None:
    model = conv_net("v = Relu(c)\nd = Conv(x, w1)\nd2 = Sigmoid(d)", last="d2")
    link = next(each for each in find_links(model)[0] if each.name == "c")
    model.graph.outputs.append(next(n for n in model.graph if n.outputs[0].name == "y").outputs[0])
    before = model.clone()

    rescale(model.graph, link, np.full(8, 4.0))

    assert compare(before, model).worst().relative_max < 1e-5


def test_overflow_changes_nothing() -> None:
    model = conv_net("v = Relu(c)")
    link = find_links(model)[0][0]
    names = {value.name for node in model.graph for value in node.inputs if value is not None}

    with pytest.raises(Reject, match="not finite"):
        rescale(model.graph, link, np.full(8, 1e39))

    assert {value.name for node in model.graph for value in node.inputs if value is not None} == names
