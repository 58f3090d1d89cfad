"""What cannot be cut is refused with a reason, and removal refuses what makes no sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.coupling.flow import Flow
from adapass.coupling.groups import find_coupling
from adapass.coupling.remove import remove
from adapass.coupling.rules.table import Rule, rule_of
from adapass.coupling.zeroed import zeroed
from adapass.errors import UsageError
from adapass.graph.text import to_text

Build = Callable[..., ir.Model]
Shape = tuple[int, ...]
ROWS, LOGITS = "float[batch, 6] x", "float[batch, 5] y"
TOKENS, WORDS = "float[batch, seq, 6] x", "float[batch, seq, 5] y"
TWO = {"w": (6, 8), "wy": (8, 5)}
WITH_A_DYNAMIC_ONE = "its size is computed at run time together with a dynamic one"

CASES: Mapping[str, tuple[str, str, Mapping[str, Shape], str, str, str, str]] = {
    "input": (
        ROWS,
        LOGITS,
        TWO,
        "h = MatMul(x, w) y = MatMul(h, wy)",
        "",
        "w:0",
        "it is an axis of the model's input 'x'",
    ),
    "output": (
        ROWS,
        LOGITS,
        TWO,
        "h = MatMul(x, w) y = MatMul(h, wy)",
        "",
        "wy:1",
        "it is an axis of the model's output 'y'",
    ),
    "softmax": (
        ROWS,
        LOGITS,
        TWO,
        "h = MatMul(x, w) s = Softmax<axis = 1>(h) y = MatMul(s, wy)",
        "",
        "w:1",
        "Softmax runs over it",
    ),
    "maximum": (
        ROWS,
        LOGITS,
        {**TWO, "v": (1, 5)},
        "h = MatMul(x, w) m = ReduceMax<keepdims = 1>(h, one) g = Sub(h, m) y = MatMul(g, wy)",
        "int64[1] one = {1}",
        "w:1",
        "ReduceMax runs over it",
    ),
    "unknown-operator": (
        ROWS,
        LOGITS,
        TWO,
        "h = MatMul(x, w) s = Det(q) t = Mul(h, s) b = Bernoulli(t) y = MatMul(b, wy)",
        "float[2,2] q = {1,0,0,1}",
        "w:1",
        "the operator Bernoulli is not followed",
    ),
    "picked-by-number": (
        ROWS,
        LOGITS,
        TWO,
        "h = MatMul(x, w) p = Gather<axis = 1>(h, order) y = MatMul(p, wy)",
        "int64[8] order = {7,6,5,4,3,2,1,0}",
        "w:1",
        "its entries are looked up by number",
    ),
    "table": (
        "int64[batch] x",
        LOGITS,
        {"w": (9, 8), "wy": (8, 5)},
        "h = Gather(w, x) t = Transpose(w) u = MatMul(h, t) v = MatMul(u, w) y = MatMul(v, wy)",
        "",
        "w:0",
        "its entries are looked up by number",
    ),
    "torn-reshape": (
        "float[2, 6] x",
        "float[4, 4] y",
        {"w": (6, 10), "wy": (5, 4)},
        "h = MatMul(x, w) r = Reshape(h, to) a = Concat<axis = 1>(r, r) g = Reshape(a, back) "
        "k = Reshape(g, again) y = MatMul(k, wy)",
        "int64[2] to = {5,4}, int64[2] back = {4,10}, int64[2] again = {8,5}",
        "w:1",
        "",
    ),
    "branch": (
        "float[batch, 6] x, bool c",
        LOGITS,
        TWO,
        "h = MatMul(x, w) s = If(c) <then_branch = yes () => (float[batch, 8] p) { p = Relu(h) },"
        "else_branch = no () => (float[batch, 8] n) { n = Neg(h) }> y = MatMul(s, wy)",
        "",
        "w:1",
        "the body of a If reads or returns it",
    ),
    "neighbours": (
        "float[batch, 3, 4, 4] x",
        "float[batch, 5, 4, 4] y",
        {"w": (6, 3, 1, 1), "wy": (5, 6, 1, 1)},
        "h = Conv(x, w) l = LRN<size = 3>(h) y = Conv(l, wy)",
        "",
        "w:0",
        "LRN mixes neighbouring channels",
    ),
    "neighbours-by-a-pool": (
        "float[batch, 3, 4, 4] x",
        "float[batch, 5, 4, 4] y",
        {"w": (6, 3, 1, 1), "wy": (5, 6, 1, 1)},
        "h = Conv(x, w) i = Unsqueeze(h, one)"
        "m = AveragePool<kernel_shape = [3,1,1], pads = [1,0,0,1,0,0]>(i) "
        "r = Reshape(m, flat) q = Reshape(r, back) k = Reshape(q, as_was) d = Div(h, k) y = Conv(d, wy)",
        "int64[1] one = {1}, int64[3] flat = {0,6,-1}, int64[4] back = {0,2,3,16},"
        "int64[4] as_was = {0,6,4,4}",
        "w:0",
        "it runs along space",
    ),
    "one-window-in-two": (
        ROWS,
        LOGITS,
        {"w": (6, 8), "wy": (4, 5)},
        "h = MatMul(x, w) i = Unsqueeze(h, zero) m = MaxPool<kernel_shape = [1], strides = [2]>(i)"
        "q = Squeeze(m, zero) y = MatMul(q, wy)",
        "int64[1] zero = {0}",
        "w:1",
        "it runs along space",
    ),
    "numbered-entries": (
        "float[batch, 3, 4, 4] x",
        "float[batch, 5, 2, 2] y",
        {"w": (6, 3, 1, 1), "wy": (5, 6, 1, 1)},
        "h = Conv(x, w) m, i = MaxPool<kernel_shape = [2,2], strides = [2,2]>(h) n = Cast<to = 1>(i)"
        "s = Add(m, n) y = Conv(s, wy)",
        "",
        "w:0",
        "a MaxPool numbers its entries",
    ),
    "counted-with-the-length": (
        TOKENS,
        WORDS,
        TWO,
        "h = MatMul(x, w) f = Reshape(h, flat) n = Shape<start = 1>(f) c = Cast<to = 1>(n) g = Mul(h, c)"
        " y = MatMul(g, wy)",
        "int64[2] flat = {0,-1}",
        "w:1",
        WITH_A_DYNAMIC_ONE,
    ),
    "made-as-long": (
        TOKENS,
        WORDS,
        TWO,
        "h = MatMul(x, w) f = Reshape(h, flat) b = Shape<end = 1>(x) s = Shape<start = 1, end = 2>(x)"
        "l = Mul(s, eight) to = Concat<axis = 0>(b, l) z = ConstantOfShape<value = float[1] {0.5}>(to)"
        "g = Add(f, z) r = Reshape(g, back) y = MatMul(r, wy)",
        "int64[2] flat = {0,-1}, int64[1] eight = {8}, int64[3] back = {0,-1,8}",
        "w:1",
        WITH_A_DYNAMIC_ONE,
    ),
    "training": (
        "float[batch, 6] x",
        LOGITS,
        {**TWO, "scale": (8,), "bias": (8,), "mean": (8,), "var": (8,)},
        "h = MatMul(x, w) n, m, v = BatchNormalization<training_mode = 1>(h, scale, bias, mean, var)"
        "g = Add(n, m) y = MatMul(g, wy)",
        "",
        "w:1",
        "a BatchNormalization in training mode",
    ),
    "mirrored": (
        ROWS,
        LOGITS,
        {"w": (6, 8), "wy": (10, 5)},
        'h = MatMul(x, w) p = Pad<mode = "reflect">(h, around) y = MatMul(p, wy)',
        "int64[4] around = {0,1,0,1}",
        "w:1",
        "Pad repeats, mirrors or crops it",
    ),
    "every-third": (
        ROWS,
        LOGITS,
        {"w": (6, 8), "wy": (3, 5)},
        "h = MatMul(x, w) s = Slice(h, zero, eight, one, three) y = MatMul(s, wy)",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] eight = {8}",
        "w:1",
        "entries are picked from it by number",
    ),
    "ellipsis": (
        ROWS,
        LOGITS,
        TWO,
        'h = MatMul(x, w) y = Einsum<equation = "...i,ij->...j">(h, wy)',
        "",
        "w:1",
        "Einsum with an ellipsis or without an output",
    ),
    "uneven-split": (
        ROWS,
        LOGITS,
        {"w": (6, 12), "wy": (5, 5)},
        "h = MatMul(x, w) r = Reshape(h, apart) t = Transpose<perm = [0,2,1]>(r) f = Reshape(t, flat) "
        "a, b = Split<axis = 1>(f, parts) y = MatMul(a, wy)",
        "int64[3] apart = {-1,4,3}, int64[2] flat = {-1,12}, int64[2] parts = {5,7}",
        "w:1",
        "",
    ),
}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[-1]])
def test_says_why(name: str, build: Build) -> None:
    inputs, outputs, weights, body, extra, site, reason = CASES[name]

    coupling = find_coupling(build(inputs, outputs, weights, body, extra))

    assert (site, reason) in {(refusal.site, refusal.reason) for refusal in coupling.refusals}
    assert site not in {group.key for group in coupling.groups}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        pytest.param({"nothing:0": [0]}, "'nothing:0' is no group", id="unknown-group"),
        pytest.param({"wy:1": [0]}, "'wy:1' is no group", id="refused-dimension"),
        pytest.param({"w:1": []}, "at least one of 8 must stay", id="nothing-stays"),
        pytest.param({"w:1": [0, 8]}, "expected different numbers from 0 to 7", id="out-of-range"),
        pytest.param({"w:1": [-1, 3]}, "expected different numbers from 0 to 7", id="negative"),
        pytest.param({"w:1": [3, 3]}, "expected different numbers from 0 to 7", id="repeated"),
    ],
)
def test_refuses_units_that_make_no_sense(kept: dict[str, list[int]], message: str, build: Build) -> None:
    model = build(*CASES["input"][:4])
    before = to_text(model)

    with pytest.raises(UsageError, match=message):
        remove(model, kept)
    with pytest.raises(UsageError, match=message):
        zeroed(model, kept)

    assert to_text(model) == before


def test_keeping_everything_changes_nothing(build: Build) -> None:
    model = build(*CASES["input"][:4])
    before = to_text(model)

    counts = remove(model, {"w:1": list(range(8))})

    assert (counts.groups, counts.units, to_text(model)) == (0, 0, before)


def test_finding_leaves_the_model_and_is_repeatable(build: Build) -> None:
    model = build(*CASES["input"][:4])
    before = to_text(model)

    first, second = find_coupling(model), find_coupling(model)

    assert first == second
    assert to_text(model) == before


def test_a_rule_that_is_wrong_about_a_shape_cuts_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(flow: Flow, node: ir.Node) -> None:
        flow.give(node, flow.of(node, 0)[::-1])

    def rules(node: ir.Node) -> Rule | None:
        return wrong if node.op_type == "Relu" else rule_of(node)

    model = build(ROWS, LOGITS, TWO, "h = MatMul(x, w) a = Relu(h) y = MatMul(a, wy)")
    assert [group.key for group in find_coupling(model).groups] == ["w:1"]
    monkeypatch.setattr("adapass.coupling.walk.rule_of", rules)

    coupling = find_coupling(model)

    assert coupling.groups == ()
    assert "the shape of 'a' is not what Relu is expected to return" in {
        refusal.reason for refusal in coupling.refusals
    }
