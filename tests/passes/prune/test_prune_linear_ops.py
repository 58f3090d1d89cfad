"""Products as matrices: rows of x times the matrix, plus the bias, are rows of y."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.execution import Session
from adapass.graph.text import parse
from adapass.moments.sources import Layout, Selection, take_rows
from adapass.passes.prune.linear_ops import linear_ops, store, stored
from adapass.passes.prune.widths import Kind, setting_of, width_of, widths
from tests.passes.prune.nets import CONVS, TOKENS, Images, Sentences, network

GEMMS = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3] x, float[3, N] xt)
 => (float[N, 2] y, float[N, 2] z, float[N, 2] u, float[N, 2] s, float[3, 2] e)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2, 3] wt = {1, 2, 3, 4, 5, 6}, float[2] b = {1, -1},
 float[2] c = {3, 4}, float[3, 2] shared = {1, 2, 3, 4, 5, 6}, float[1] one = {1},
 float[3, 3] left = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    y = Gemm <alpha = 2.0> (x, w, b)
    z = Gemm <transB = 1, beta = 0.5> (x, wt, c)
    u = Gemm <transA = 1> (xt, shared)
    p = MatMul (x, shared)
    s = Add (p, one)
    e = MatMul (left, shared)
}
"""


@pytest.mark.parametrize(
    ("text", "data"), [(CONVS, Images(5)), (TOKENS, Sentences(5)), (GEMMS, None)], ids=["c", "t", "g"]
)
def test_the_matrix_computes_what_the_operator_computes(text: str, data: Images | Sentences | None) -> None:
    model = network(text) if data is not None else parse(text)
    rng = np.random.default_rng(0)
    feeds = data.batch(range(5)) if data is not None else {
        "x": rng.normal(size=(4, 3)).astype(np.float32), "xt": np.zeros((3, 4), np.float32)
    }  # fmt: skip
    ops = linear_ops(model)
    names = [n for op in ops for n in (op.source.value, op.output.value, op.total, op.residual) if n]
    inputs = {value.name for value in model.graph.inputs}
    shown = Session(model, outputs=[n for n in names if n not in inputs]).run(feeds)
    values = {name: np.asarray(array, np.float64) for name, array in {**feeds, **shown}.items()}
    selection = Selection(tuple(range(len(next(iter(feeds.values()))))), None, None)

    for op in ops:
        x = take_rows(values[op.source.value], op.source, Layout(0, None), selection)
        y = take_rows(values[op.output.value], op.output, Layout(0, None), selection)
        bias = stored(model, op.bias).astype(np.float64) if op.bias is not None else 0.0
        if op.node == "z":  # the bias is scaled there, and not taken for one
            bias = np.array([1.5, 2.0])
        found = x @ op.matrix(stored(model, op.weight)) + bias
        np.testing.assert_allclose(found, y, atol=1e-3)
        if op.total is not None and op.residual is not None:
            np.testing.assert_allclose(
                values[op.total], values[op.output.value] + values[op.residual], atol=1e-5
            )


def test_matrices_are_stored_as_they_were_read() -> None:
    for model in (network(CONVS), network(TOKENS), parse(GEMMS)):
        for op in linear_ops(model):
            before = stored(model, op.weight).copy()
            store(model, op.weight, op.tensor(op.matrix(before), before))
            np.testing.assert_allclose(stored(model, op.weight), before, rtol=1e-6)


def test_finds_biases_sums_and_what_is_shared() -> None:
    ops = {op.node: op for op in linear_ops(network(TOKENS))}
    assert (ops["o"].bias, ops["o"].output.value, ops["o"].total, ops["o"].residual) == ("bo", "ob", "s", "e")
    assert (ops["q"].bias, ops["q"].output.value, ops["q"].total) == (None, "q", None)

    gemms = {op.node: op for op in linear_ops(parse(GEMMS))}
    assert set(gemms) == {"y", "z", "p"}
    assert gemms["y"].bias == "b"
    assert gemms["z"].bias is None
    assert gemms["p"].bias is None  # one number is not a bias a channel
    assert gemms["p"].shared
    assert not gemms["y"].shared


def test_convolutions_in_groups_are_left_out() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[N, 4, 8] x) => (float[N, 4, 8] y)
    <float[4, 2, 1] w = {1, 2, 3, 4, 5, 6, 7, 8}>
    { y = Conv <kernel_shape = [1], group = 2> (x, w) }
    """
    assert linear_ops(parse(text)) == ()


def test_columns_of_a_channel_are_all_its_taps() -> None:
    op = next(op for op in linear_ops(network(CONVS)) if op.node == "h1")

    assert op.columns((0, 2)).tolist() == [*range(9), *range(18, 27)]


@pytest.mark.parametrize(
    ("kind", "units", "multiple", "expected"),
    [
        (Kind.CHANNELS, 64, 16, (48, 32, 16)),
        (Kind.CHANNELS, 32, 16, (16,)),
        (Kind.CHANNELS, 16, 16, (8,)),
        (Kind.CHANNELS, 4, 16, (2,)),
        (Kind.NEURONS, 1536, 16, (1152, 960, 768, 576, 384)),
        (Kind.NEURONS, 1536, 64, (1152, 960, 768, 576, 384)),
        (Kind.NEURONS, 192, 64, (128, 96, 64)),
        (Kind.CHANNELS, 64, 64, (48, 32, 16)),
        (Kind.CHANNELS, 32, 64, (16,)),
        (Kind.CHANNELS, 16, 64, (8,)),
        (Kind.HEADS, 12, 16, (9, 8, 6, 4, 3)),
        (Kind.HEADS, 2, 1, (1,)),
        (Kind.CHANNELS, 2, 1, (1,)),
    ],
)
def test_widths_are_multiples_that_pay(
    kind: Kind, units: int, multiple: int, expected: tuple[int, ...]
) -> None:
    assert widths(kind, units, (0.75, 0.5, 0.625, 0.375, 0.25), multiple) == expected


def test_settings_are_words_that_read_back() -> None:
    assert width_of(setting_of(48)) == 48
    for text in ("48", "keep-", "keep-4.5", "keep-\u0663", "int8"):
        assert width_of(text) is None
