"""CutPoints: where exits can sit, in small models of every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapass.analyses.cut_points import CutPoint, CutPoints, Layout
from adapass.facts import FactCache

Build = Callable[..., FactCache]

SQUARE = {f"w{number}": (4, 4) for number in range(1, 9)} | {"v": (4,), "head": (4, 2)}
KERNELS = {f"k{number}": (3, 3, 1, 1) for number in range(1, 7)} | {"head": (3, 2)}
POOL = "g = GlobalAveragePool(last) f = Flatten(g) y = MatMul(f, head)"


def attention(number: int, entry: str, mask: str) -> str:
    """One attention branch with its output projection, written out, around ``w1`` to ``w4``."""
    n = number
    return f"""
        q{n} = MatMul({entry}, w1) k{n} = MatMul({entry}, w2) u{n} = MatMul({entry}, w3)
        kt{n} = Transpose<perm = [0, 2, 1]>(k{n})
        s{n} = MatMul(q{n}, kt{n}) m{n} = Add(s{n}, {mask}) p{n} = Softmax(m{n})
        c{n} = MatMul(p{n}, u{n}) a{n} = MatMul(c{n}, w4)
    """


ENCODER = f"""
    f = Cast<to = 1>(mask)
    axis = Constant<value_ints = [1]>()
    wide = Unsqueeze(f, axis)
    e = MatMul(x, w5)
    {attention(1, "e", "wide")}
    r1 = Add(e, a1)
    n1 = LayerNormalization(r1, v)
    {attention(2, "n1", "wide")}
    r2 = Add(n1, a2)
    n2 = LayerNormalization(r2, v)
    first = Constant<value_int = 0>()
    cls = Gather<axis = 1>(n2, first)
    y = MatMul(cls, head)
"""


def points(facts: FactCache) -> dict[str, CutPoint]:
    return {point.value: point for point in facts.get(CutPoints).points}


def encoder(build: Build, tokens: str = "T", batch: str = "B") -> FactCache:
    inputs = f"float[{batch}, {tokens}, 4] x, int64[{batch}, {tokens}] mask"
    return build(inputs, f"float[{batch}, 2] y", SQUARE, ENCODER)


@pytest.mark.parametrize(("tokens", "batch"), [("T", "B"), ("6", "B"), ("6", "1")])
def test_post_norm_encoder(build: Build, tokens: str, batch: str) -> None:
    """The normalised sums; the mask crosses beside them until its last reader."""
    found = points(encoder(build, tokens, batch))

    assert list(found) == ["e", "n1", "n2"]
    assert found["e"].side_values == ("mask",)
    assert found["n1"].side_values == ("wide",)
    assert found["n2"].side_values == ()
    assert found["n1"].layout is Layout.TOKENS
    assert (found["n1"].batch_axis, found["n1"].token_axis, found["n1"].channel_axis) == (0, 1, 2)
    assert found["n1"].channels == 4


def test_depth_grows_to_one(build: Build) -> None:
    depths = [point.depth for point in encoder(build).get(CutPoints).points]

    assert depths == sorted(depths)
    assert 0 < depths[0] < 0.2
    assert 0.9 < depths[-1] <= 1


def test_inside_a_branch_is_refused(build: Build) -> None:
    refusals = dict(encoder(build).get(CutPoints).refusals)

    assert set(refusals.values()) == {"two values cross here", "several values cross here"}
    assert refusals["c1"] == "two values cross here"


def test_pre_norm_stream(build: Build) -> None:
    body = """
        e = MatMul(x, w1)
        n1 = LayerNormalization(e, v) h1 = MatMul(n1, w2) g1 = Relu(h1) o1 = MatMul(g1, w3) r1 = Add(e, o1)
        n2 = LayerNormalization(r1, v) h2 = MatMul(n2, w4) g2 = Relu(h2) o2 = MatMul(g2, w5) r2 = Add(r1, o2)
        y = MatMul(r2, head)
    """
    found = points(build("float[B, T, 4] x", "float[B, T, 2] y", SQUARE, body))

    assert list(found) == ["e", "r1", "r2"]


def test_residual_convolutions(build: Build) -> None:
    body = f"""
        c1 = Conv(x, k1) a1 = Relu(c1)
        c2 = Conv(a1, k2) a2 = Relu(c2) c3 = Conv(a2, k3) s1 = Add(c3, a1) b1 = Relu(s1)
        c4 = Conv(b1, k4) a4 = Relu(c4) c5 = Conv(a4, k5) d = Conv(b1, k6) s2 = Add(c5, d) last = Relu(s2)
        {POOL}
    """
    facts = build("float[B, 3, 8, 8] x", "float[B, 2] y", KERNELS, body)
    found = points(facts)

    assert list(found) == ["a1", "b1", "last"]
    assert found["b1"].layout is Layout.IMAGE
    assert (found["b1"].channel_axis, found["b1"].channels, found["b1"].token_axis) == (1, 3, None)
    assert "two values cross here" in dict(facts.get(CutPoints).refusals).values()


def test_plain_convolutions_are_cut_behind_activation_and_pooling(build: Build) -> None:
    body = f"""
        c1 = Conv(x, k1) a1 = Relu(c1)
        c2 = Conv(a1, k2) a2 = Relu(c2) p2 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a2)
        c3 = Conv(p2, k3) last = Relu(c3) {POOL}
    """
    assert list(points(build("float[B, 3, 8, 8] x", "float[B, 2] y", KERNELS, body))) == ["a1", "p2", "last"]


def test_pooling_most_of_an_image_away_is_not_part_of_the_cut(build: Build) -> None:
    body = f"""
        c1 = Conv(x, k1) a1 = Relu(c1) p1 = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(a1)
        last = Conv(p1, k2) {POOL}
    """
    assert list(points(build("float[B, 3, 8, 8] x", "float[B, 2] y", KERNELS, body))) == ["a1", "last"]


def test_parallel_branches_are_cut_where_they_join(build: Build) -> None:
    body = """
        c1 = Conv(x, k1) a1 = Relu(c1)
        b1 = Conv(a1, k2) b2 = Conv(a1, k3) b3 = Conv(b2, k4)
        j = Concat<axis = 1>(b1, b3) last = Relu(j)
        g = GlobalAveragePool(last) f = Flatten(g) y = MatMul(f, wide)
    """
    found = points(build("float[B, 3, 8, 8] x", "float[B, 2] y", KERNELS | {"wide": (6, 2)}, body))

    assert list(found) == ["a1", "last"]


def test_dense_connections_through_a_growing_concat(build: Build) -> None:
    body = f"""
        c1 = Conv(x, k1)
        n2 = Conv(c1, k2) j2 = Concat<axis = 1>(c1, n2)
        n3 = Conv(j2, k6x) j3 = Concat<axis = 1>(j2, n3) last = Conv(j3, k9x) {POOL}
    """
    weights = KERNELS | {"k6x": (3, 6, 1, 1), "k9x": (3, 9, 1, 1)}

    assert list(points(build("float[B, 3, 8, 8] x", "float[B, 2] y", weights, body))) == [
        "c1",
        "j2",
        "j3",
        "last",
    ]


def test_a_skip_over_everything_leaves_no_cut(build: Build) -> None:
    body = """
        a = MatMul(x, w1) b = MatMul(a, w2) c = MatMul(b, w3) d = MatMul(c, w4)
        s = Add(a, d) y = MatMul(s, head)
    """
    facts = build("float[B, 4] x", "float[B, 2] y", SQUARE, body)

    assert list(points(facts)) == ["a", "s"]
    assert dict(facts.get(CutPoints).refusals) == dict.fromkeys(["b", "c"], "two values cross here")


def test_the_input_itself_may_cross(build: Build) -> None:
    """As in image restoration, where the network predicts a correction of its input."""
    body = "c1 = Conv(x, k1) a1 = Relu(c1) c2 = Conv(a1, k2) y = Add(x, c2)"
    found = points(build("float[B, 3, 8, 8] x", "float[B, 3, 8, 8] y", KERNELS, body))

    assert found["a1"].side_values == ("x",)


def test_vectors(build: Build) -> None:
    body = "h = MatMul(x, w1) a = Relu(h) i = MatMul(a, w2) b = Relu(i) y = MatMul(b, head)"
    found = points(build("float[B, 4] x", "float[B, 2] y", SQUARE, body))

    assert list(found) == ["a", "b"]
    assert found["a"].layout is Layout.VECTOR
    assert (found["a"].token_axis, found["a"].channel_axis) == (None, 1)


def test_nothing_behind_the_last_learned_layer(build: Build) -> None:
    found = points(build("float[B, 4] x", "float[B, 2] y", SQUARE, "h = MatMul(x, head) y = Softmax(h)"))

    assert found == {}


def test_folded_batch_is_refused(build: Build) -> None:
    body = """
        h = MatMul(x, w1) rows = Constant<value_ints = [-1, 4]>() r = Reshape(h, rows)
        i = MatMul(r, w2) j = Relu(i) s = Shape(x) z = Reshape(j, s) y = MatMul(z, head)
    """
    facts = build("float[B, T, 4] x", "float[B, T, 2] y", SQUARE, body)

    assert list(points(facts)) == ["h", "z"]

    body = (
        "rows = Constant<value_ints = [-1, 4]>() r = Reshape(x, rows) i = MatMul(r, w1) y = MatMul(i, head)"
    )
    facts = build("float[B, T, 4] x", "float[N, 2] y", SQUARE, body)

    assert dict(facts.get(CutPoints).refusals) == {"i": "the value has no axis with one entry per sample"}


def test_whole_numbers_are_refused(build: Build) -> None:
    body = "h = MatMul(x, w1) q = Cast<to = 7>(h) d = Cast<to = 1>(q) y = MatMul(d, head)"
    facts = build("float[B, 4] x", "float[B, 2] y", SQUARE, body)

    assert list(points(facts)) == ["d"]

    body = "h = MatMul(x, w1) q = Cast<to = 7>(h) c = Cast<to = 7>(w2) y = MatMul(q, c)"
    facts = build("float[B, 4] x", "int64[B, 4] y", SQUARE, body)

    assert list(points(facts)) == ["h"]


def test_sizes_cross_instead_of_what_they_were_measured_on(build: Build) -> None:
    body = """
        e = MatMul(x, w1) s = Shape(e) rows = Constant<value_ints = [-1, 4]>()
        a = MatMul(e, w2) b = Relu(a) c = MatMul(b, w3) d = Relu(c)
        f = Reshape(d, rows) g = MatMul(f, w4) z = Reshape(g, s) y = MatMul(z, head)
    """
    found = points(build("float[B, T, 4] x", "float[B, T, 2] y", SQUARE, body))

    assert list(found) == ["e", "b", "d", "z"]
    assert found["e"].side_values == ()
    assert found["b"].side_values == ("s",)
    assert found["d"].side_values == ("s",)


def test_the_size_of_a_side_value_is_taken_when_it_is_needed(build: Build) -> None:
    body = """
        f = Cast<to = 1>(mask) axis = Constant<value_ints = [2]>() wide = Unsqueeze(f, axis) s = Shape(wide)
        e = MatMul(x, w1) r = Relu(e) h = MatMul(r, w2) one = ConstantOfShape(s) a = Add(h, one)
        b = MatMul(a, w3) y = MatMul(b, head)
    """
    found = points(build("float[B, T, 4] x, int64[B, T] mask", "float[B, T, 2] y", SQUARE, body))

    assert found["r"].side_values == ("mask",)
    assert found["a"].side_values == ()


def test_positions_are_side_values_whatever_they_cost(build: Build) -> None:
    body = """
        zero = Constant<value_int = 0>() one = Constant<value_int = 1>() t = Shape<start = 1, end = 2>(x)
        no_axis = Constant<value_ints = [0]>() n = Squeeze(t, no_axis) r = Range(zero, n, one)
        table = Gather(positions, r) proj = MatMul(table, w5)
        e = MatMul(x, w1) a = Add(e, proj) h1 = MatMul(a, w2) b = Add(h1, proj) h2 = MatMul(b, w3)
        y = MatMul(h2, head)
    """
    found = points(build("float[B, T, 4] x", "float[B, T, 2] y", SQUARE | {"positions": (32, 4)}, body))

    assert list(found) == ["a", "b", "h2"]
    assert found["a"].side_values == ("proj",)


def test_rotary_tables_from_given_positions_are_side_values(build: Build) -> None:
    """The vector of frequencies is stored, but multiplying by it is no learned layer."""
    body = """
        p = Cast<to = 1>(positions) axis = Constant<value_ints = [2]>() column = Unsqueeze(p, axis)
        angle = MatMul(column, frequencies) turn = Cos(angle)
        e = MatMul(x, w1) a = Mul(e, turn) b = MatMul(a, w2) c = Mul(b, turn) d = MatMul(c, w3)
        y = MatMul(d, head)
    """
    weights = dict.fromkeys(("w1", "w2", "w3"), (48, 48)) | {"frequencies": (1, 48), "head": (48, 2)}
    found = points(build("float[B, T, 48] x, int64[B, T] positions", "float[B, T, 2] y", weights, body))

    assert list(found) == ["a", "c", "d"]
    assert found["a"].side_values == ("turn",)


def test_a_looked_up_embedding_is_no_side_value(build: Build) -> None:
    """It costs no operations, but it is what the model works on."""
    body = """
        e = Gather(table, ids) n = LayerNormalization(e, v) a = MatMul(n, w1) b = Relu(a)
        c = MatMul(b, w2) d = Add(c, e) y = MatMul(d, head)
    """
    facts = build("int64[B, T] ids", "float[B, T, 2] y", SQUARE | {"table": (50, 4)}, body)

    assert list(points(facts)) == ["e", "d"]


def test_channels_last(build: Build) -> None:
    body = """
        t = Transpose<perm = [0, 2, 3, 1]>(x) n = LayerNormalization(t, v3) h = MatMul(n, m1) a = Relu(h)
        i = MatMul(a, m2) y = ReduceMean<keepdims = 0>(i)
    """
    weights = {"v3": (3,), "m1": (3, 5), "m2": (5, 5)}
    found = points(build("float[B, 3, 8, 8] x", "float y", weights, body))

    assert found["a"].channel_axis == 3
    assert found["a"].channels == 5


def test_other_ranks_are_refused(build: Build) -> None:
    body = "h = Conv(x, j) r = Relu(h) i = Conv(r, k) y = ReduceMean<keepdims = 0>(i)"
    weights = {"j": (2, 1, 1, 1, 1), "k": (2, 2, 1, 1, 1)}
    facts = build("float[B, 1, 4, 4, 4] x", "float y", weights, body)

    assert points(facts) == {}
    assert dict(facts.get(CutPoints).refusals) == {
        "r": "the value is neither tokens nor an image nor a vector"
    }


def test_one_dimensional_convolutions(build: Build) -> None:
    body = (
        "c = Conv(x, j1) a = Relu(c) d = Conv(a, j2) g = GlobalAveragePool(d) f = Flatten(g) y = MatMul(f, m)"
    )
    weights = {"j1": (5, 3, 3), "j2": (5, 5, 3), "m": (5, 2)}
    found = points(build("float[B, 3, 20] x", "float[B, 2] y", weights, body))

    assert (found["a"].token_axis, found["a"].channel_axis, found["a"].channels) == (2, 1, 5)


def test_a_recurrent_layer(build: Build) -> None:
    body = """
        t = Transpose<perm = [1, 0, 2]>(x) o = LSTM<hidden_size = 2>(t, lw, lr)
        axis = Constant<value_ints = [1]>() s = Squeeze(o, axis) y = MatMul(s, m)
    """
    weights = {"lw": (1, 8, 4), "lr": (1, 8, 2), "m": (2, 3)}
    found = points(build("float[B, T, 4] x", "float[T, B, 3] y", weights, body))

    assert (found["s"].batch_axis, found["s"].token_axis, found["s"].channel_axis) == (1, 0, 2)


def test_asking_twice_gives_the_same(build: Build) -> None:
    assert encoder(build).get(CutPoints) == encoder(build).get(CutPoints)
