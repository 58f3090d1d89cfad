"""Recurrent cells, fused attention, channel shuffle, quantizers, functions and bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.coupling import balance
from adapass.coupling.groups import Coupling, find_coupling
from adapass.coupling.remove import remove
from adapass.errors import UsageError
from adapass.graph.text import to_text

Build = Callable[..., ir.Model]
Check = Callable[[ir.Model], Coupling]
Shape = tuple[int, ...]
STEPS, LOGITS = "float[seq, batch, 6] x", "float[seq, batch, 5] y"
JOIN = "t = Transpose<perm = [0,2,1,3]>(s) j = Reshape(t, joined) y = MatMul(j, wy)"
JOINED = "int64[3] joined = {0,0,-1}"

CELLS: Mapping[str, tuple[dict[str, Shape], str, str, list[tuple[str, str, int]]]] = {
    "lstm": (
        {"w": (1, 20, 6), "r": (1, 20, 5), "b": (1, 40), "wy": (5, 5)},
        "s, h, c = LSTM<hidden_size = 5>(x, w, r, b)" + JOIN,
        JOINED,
        [("w:1.1", "states", 5)],
    ),
    "gru-both-ways": (
        {"w": (2, 15, 6), "r": (2, 15, 5), "b": (2, 30), "wy": (10, 5)},
        's = GRU<hidden_size = 5, direction = "bidirectional", linear_before_reset = 1>(x, w, r, b)' + JOIN,
        JOINED,
        [("w:1.1", "states", 5)],
    ),
    "rnn-stacked": (
        {"w": (1, 4, 6), "r": (1, 4, 4), "w2": (1, 7, 4), "r2": (1, 7, 7), "wy": (7, 5)},
        "s1 = RNN<hidden_size = 4>(x, w, r) q = Squeeze(s1, one) s = RNN<hidden_size = 7>(q, w2, r2)" + JOIN,
        JOINED + ", int64[1] one = {1}",
        [("w:1", "states", 4), ("w2:1", "states", 7)],
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str, build: Build, removes_what_it_zeroes: Check) -> None:
    weights, body, extra, expected = CELLS[name]

    coupling = removes_what_it_zeroes(build(STEPS, LOGITS, weights, body, extra))

    assert [(group.key, group.kind, group.units) for group in coupling.groups] == expected


def test_attention_as_one_operator(build: Build, removes_what_it_zeroes: Check) -> None:
    """Its scale follows from the width of a head: the old one must stay."""
    model = build(
        "float[batch, seq, 6] x",
        "float[batch, seq, 5] y",
        {"w0": (6, 8), "wq": (8, 24), "wk": (8, 12), "wv": (8, 15), "wo": (30, 8), "wy": (8, 5)},
        "e = MatMul(x, w0) q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)"
        "o = Attention<q_num_heads = 6, kv_num_heads = 3>(q, k, v) u = MatMul(o, wo) r = Add(e, u) "
        "y = MatMul(r, wy)",
        opset=23,
    )

    coupling = removes_what_it_zeroes(model)

    assert [(group.key, group.kind, group.units) for group in coupling.groups] == [
        ("w0:1", "stream", 8),
        ("wq:1.0", "heads", 3),
        ("wq:1.1", "heads", 2),
        ("wq:1.2", "head-width", 4),
        ("wv:1.1", "head-width", 5),
    ]


@pytest.fixture
def two_units(build: Build) -> ir.Model:
    """Two units of ShuffleNet V2."""
    unit = (
        "a{0}, b{0} = Split<axis = 1, num_outputs = 2>(s{0}) "
        "c{0} = Conv(b{0}, w{0}) d{0} = Conv<group = 6>(c{0}, v{0}) "
        "e{0} = Conv(d{0}, u{0}) f{0} = Concat<axis = 1>(a{0}, e{0}) g{0} = Reshape(f{0}, apart) "
        "h{0} = Transpose<perm = [0,2,1,3,4]>(g{0}) s{1} = Reshape(h{0}, joined) "
    )
    weights: dict[str, Shape] = {"w": (10, 3, 1, 1), "wy": (10, 5), "by": (5,)}
    for number in (0, 1):
        weights |= {f"w{number}": (6, 5, 1, 1), f"v{number}": (6, 1, 1, 1), f"u{number}": (5, 6, 1, 1)}
    body = "s0 = Conv(x, w) " + unit.format(0, 1) + unit.format(1, 2)
    return build(
        "float[batch, 3, 4, 4] x",
        "float[batch, 5] y",
        weights,
        body + "p = GlobalAveragePool(s2) l = Flatten(p) y = Gemm(l, wy, by)",
        "int64[5] apart = {-1,2,5,4,4}, int64[4] joined = {-1,10,4,4}",
    )


def test_channels_go_their_own_way_through_shuffles(
    two_units: ir.Model, removes_what_it_zeroes: Check
) -> None:
    """Each channel passes by some branches and is read by others."""
    coupling = removes_what_it_zeroes(two_units)

    assert [(group.key, group.units) for group in coupling.groups] == [
        ("w:0.0", 5), ("w:0.5", 5), ("w0:0", 6), ("u0:0.0", 5), ("w1:0", 6), ("u1:0.0", 5),
    ]  # fmt: skip


def test_a_branch_must_keep_something(two_units: ir.Model) -> None:
    """Both groups keep a channel, but both of these channels pass by the second branch."""
    before = to_text(two_units)

    with pytest.raises(UsageError, match="nothing would be left of axis 1 of 'b1'"):
        remove(two_units, {"w:0.0": [0], "u0:0.0": [0]})

    assert to_text(two_units) == before


def test_scales_of_channels_follow(build: Build, removes_what_it_zeroes: Check) -> None:
    model = build(
        "float[batch, 6] x",
        "float[batch, 5] y",
        {"scale": (8,), "wy": (8, 5)},
        "w = DequantizeLinear<axis = 1>(q, scale, z) h = MatMul(x, w) y = MatMul(h, wy)",
        f"int8[6, 8] q = {{{', '.join(str(7 * at % 23 - 11) for at in range(48))}}},"
        f"int8[8] z = {{{', '.join(str(at) for at in range(8))}}}",
    )

    coupling = removes_what_it_zeroes(model)

    (group,) = coupling.groups
    assert (group.key, group.units) == ("q:1", 8)
    assert {(place.value, place.role) for place in group.stored} == {
        ("q", "writes"), ("scale", "follows"), ("z", "follows"), ("wy", "reads"),
    }  # fmt: skip


@pytest.fixture
def with_function(build: Build) -> ir.Model:
    return build(
        "float[batch, 6] x",
        "float[batch, 5] y",
        {"w": (6, 8), "wy": (8, 5)},
        "h = MatMul(x, w) a = own.Swish(h) y = MatMul(a, wy)",
        domains=', "own": 1',
        functions='<domain: "own", opset_import: ["": 20]> Swish (v) => (o) { s = Sigmoid(v) o = Mul(v, s) }',
    )


def test_functions_of_the_model_are_followed(with_function: ir.Model, removes_what_it_zeroes: Check) -> None:
    coupling = removes_what_it_zeroes(with_function)

    assert [(group.key, group.units) for group in coupling.groups] == [("w:1", 8)]


def test_functions_stay_where_a_removal_is_refused(with_function: ir.Model) -> None:
    before = to_text(with_function)

    with pytest.raises(UsageError, match="'w:0' is no group"):
        remove(with_function, {"w:0": [0]})

    assert to_text(with_function) == before


def grouped_unit(channels: int, groups: int) -> tuple[dict[str, Shape], str, str]:
    """A unit of ShuffleNet V1: grouped convolution, shuffle, depthwise, grouped convolution, residual."""
    part = channels // groups
    weights: dict[str, Shape] = {
        "w": (2 * groups, 3, 1, 1),
        "g1": (channels, 2, 1, 1),
        "d": (channels, 1, 1, 1),
        "g2": (2 * groups, part, 1, 1),
        "wy": (2 * groups, 5),
        "by": (5,),
    }
    body = (
        f"s = Conv(x, w) a = Conv<group = {groups}>(s, g1) b = Relu(a) c = Reshape(b, apart) "
        f"e = Transpose<perm = [0,2,1,3,4]>(c) f = Reshape(e, joined) h = Conv<group = {channels}>(f, d) "
        f"k = Conv<group = {groups}>(h, g2) r = Add(s, k) p = GlobalAveragePool(r) l = Flatten(p) "
        "y = Gemm(l, wy, by)"
    )
    extra = f"int64[5] apart = {{-1,{groups},{part},4,4}}, int64[4] joined = {{-1,{channels},4,4}}"
    return weights, body, extra


@pytest.mark.parametrize(
    ("channels", "groups", "units"),
    [
        pytest.param(15, 3, 5, id="one-channel-of-each-group"),
        pytest.param(12, 2, 3, id="two-units-become-one"),
        pytest.param(24, 4, 3, id="three-pairs"),
    ],
)
def test_shuffled_groups_shrink_alike(
    channels: int, groups: int, units: int, build: Build, removes_what_it_zeroes: Check
) -> None:
    weights, body, extra = grouped_unit(channels, groups)
    model = build("float[batch, 3, 4, 4] x", "float[batch, 5] y", weights, body, extra)

    coupling = removes_what_it_zeroes(model)

    found = {group.key: group for group in coupling.groups}
    assert found["g1:0.0"].units == units
    assert all(len(unit) == channels // units for unit in found["g1:0.0"].written[0].positions)


def test_a_channel_without_a_partner_stays(build: Build, removes_what_it_zeroes: Check) -> None:
    """Of the first group one channel is an output: of the other group the last has none to go with."""
    model = build(
        "float[batch, 3, 4, 4] x",
        "float[batch, 1, 4, 4] shown, float[batch, 5, 4, 4] y",
        {"w": (4, 3, 1, 1), "g": (6, 2, 1, 1), "wy": (5, 5, 1, 1)},
        "s = Conv(x, w) a = Conv<group = 2>(s, g) b = Reshape(a, apart)"
        "c = Transpose<perm = [0,2,1,3,4]>(b) d = Reshape(c, joined) shown, e = Split<axis = 1>(d, parts)"
        " y = Conv(e, wy)",
        "int64[5] apart = {-1,2,3,4,4}, int64[4] joined = {-1,6,4,4}, int64[2] parts = {1,5}",
    )

    coupling = removes_what_it_zeroes(model)

    (group,) = (group for group in coupling.groups if group.key.startswith("g:0"))
    assert sorted(group.written[0].positions) == [(1, 3), (2, 4)]


def test_groups_that_are_never_settled_stay(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "MOST_ROUNDS", 1)
    weights, body, extra = grouped_unit(12, 2)

    coupling = find_coupling(build("float[batch, 3, 4, 4] x", "float[batch, 5] y", weights, body, extra))

    assert not [group.key for group in coupling.groups if group.key.startswith("g1:0")]
    assert balance.UNBALANCED in {refusal.reason for refusal in coupling.refusals}


POSITIONS: Mapping[str, tuple[dict[str, Shape], str, str, list[tuple[str, int]]]] = {
    "slices": (
        {"w": (6, 8), "wa": (5, 5), "wb": (3, 5)},
        "h = MatMul(x, w) a = Slice(h, five, far, one) b = Slice(h, zero, five, one) "
        "c = MatMul(a, wa) d = MatMul(b, wb) y = Add(c, d)",
        "int64[1] five = {-5}, int64[1] far = {9223372036854775807}, int64[1] zero = {0}, int64[1] one = {1}",
        [("w:1.1", 5), ("w:1.0", 3)],
    ),
    "one-picked": (
        {"w": (6, 8), "wy": (6, 5)},
        "h = MatMul(x, w) r = Reshape(h, apart) q = Slice(r, zero, last, one) k = Gather<axis = 1>(r, last) "
        "m = Mul(q, k) f = Reshape(m, flat) y = MatMul(f, wy)",
        "int64[3] apart = {0,4,2}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {-1},"
        "int64[2] flat = {0,-1}",
        [("w:1.0", 3), ("w:1.2", 2)],
    ),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_from_the_end_stay_where_they_are(
    name: str, build: Build, removes_what_it_zeroes: Check
) -> None:
    weights, body, extra, expected = POSITIONS[name]

    coupling = removes_what_it_zeroes(build("float[batch, 6] x", "float[batch, 5] y", weights, body, extra))

    assert sorted((group.key, group.units) for group in coupling.groups) == sorted(expected)
