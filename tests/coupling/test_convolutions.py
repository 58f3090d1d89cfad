"""Convolutional networks: what shrinks together, and that removal is what zeroing says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling

Build = Callable[..., ir.Model]
Check = Callable[[ir.Model], Coupling]
IMAGE, LOGITS = "float[batch, 3, 8, 8] x", "float[batch, 5] y"
HEAD = "p = GlobalAveragePool({0}) f = Flatten(p) y = Gemm(f, wy, by)"
Shape = tuple[int, ...]

PLAIN = "a = Conv(x, w1, b1) r = Relu(a) b = Conv(r, w2)"
CASES: Mapping[str, tuple[dict[str, Shape], str, list[tuple[str, str, int]]]] = {
    "chain": (
        {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (4, 6, 1, 1), "wy": (4, 5), "by": (5,)},
        PLAIN + HEAD.format("b"),
        [("w1:0", "channels", 6), ("w2:0", "channels", 4)],
    ),
    "residual": (
        {"w0": (6, 3, 3, 3), "w1": (8, 6, 3, 3), "w2": (6, 8, 3, 3), "wy": (6, 5), "by": (5,)},
        "s = Conv<pads = [1,1,1,1]>(x, w0) a = Conv<pads = [1,1,1,1]>(s, w1) r = Relu(a)"
        "b = Conv<pads = [1,1,1,1]>(r, w2) t = Add(s, b)" + HEAD.format("t"),
        [("w0:0", "stream", 6), ("w1:0", "channels", 8)],
    ),
    "batch-norm": (
        {
            "w1": (6, 3, 1, 1),
            "scale": (6,),
            "bias": (6,),
            "mean": (6,),
            "var": (6,),
            "w2": (4, 6, 1, 1),
            "wy": (4, 5),
            "by": (5,),
        },
        "a = Conv(x, w1) n = BatchNormalization(a, scale, bias, mean, var) r = Relu(n) b = Conv(r, w2)"
        + HEAD.format("b"),
        [("w1:0", "channels", 6), ("w2:0", "channels", 4)],
    ),
    "depthwise": (
        {"w1": (6, 3, 1, 1), "wd": (6, 1, 3, 3), "w2": (4, 6, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) d = Conv<group = 6, pads = [1,1,1,1]>(a, wd) r = Relu(d) b = Conv(r, w2)"
        + HEAD.format("b"),
        [("w1:0", "channels", 6), ("w2:0", "channels", 4)],
    ),
    "depthwise-multiplier": (
        {"w1": (4, 3, 1, 1), "wd": (12, 1, 3, 3), "w2": (4, 12, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) d = Conv<group = 4>(a, wd) r = Relu(d) b = Conv(r, w2)" + HEAD.format("b"),
        [("w1:0", "channels", 4), ("wd:0.1", "channels", 3), ("w2:0", "channels", 4)],
    ),
    "unfolded-and-folded": (
        {"w1": (24, 3, 2, 2), "w2": (4, 6, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv<strides = [2,2]>(x, w1) k = Reshape(a, blocks)"
        "c = Col2Im<strides = [2,2]>(k, whole, block) r = Relu(c) b = Conv(r, w2)" + HEAD.format("b"),
        [("w1:0.0", "channels", 6), ("w2:0", "channels", 4)],
    ),
    "grouped": (
        {"w1": (12, 3, 1, 1), "wg": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) d = Conv<group = 4>(a, wg) r = Relu(d) b = Conv(r, w2)" + HEAD.format("b"),
        [
            ("w1:0.0", "channels", 4),
            ("w1:0.1", "channels", 3),
            ("wg:0.1", "channels", 2),
            ("w2:0", "channels", 4),
        ],
    ),
    "transposed": (
        {"w1": (6, 3, 2, 2), "wt": (6, 4, 2, 2), "bt": (4,), "w2": (3, 4, 1, 1), "wy": (3, 5), "by": (5,)},
        "a = Conv<strides = [2,2]>(x, w1) d = ConvTranspose<strides = [2,2]>(a, wt, bt) r = Relu(d) "
        "b = Conv(r, w2)" + HEAD.format("b"),
        [("w1:0", "channels", 6), ("wt:1", "channels", 4), ("w2:0", "channels", 3)],
    ),
    "transposed-grouped": (
        {"w1": (6, 3, 2, 2), "wt": (6, 4, 2, 2), "w2": (3, 8, 1, 1), "wy": (3, 5), "by": (5,)},
        "a = Conv<strides = [2,2]>(x, w1) d = ConvTranspose<strides = [2,2], group = 2>(a, wt) "
        "b = Conv(d, w2)" + HEAD.format("b"),
        [
            ("w1:0.0", "channels", 2),
            ("w1:0.1", "channels", 3),
            ("wt:1", "channels", 4),
            ("w2:0", "channels", 3),
        ],
    ),
    "dense-concat": (
        {"w1": (4, 3, 1, 1), "w2": (3, 4, 1, 1), "w3": (5, 7, 1, 1), "wy": (12, 5), "by": (5,)},
        "a = Conv(x, w1) b = Conv(a, w2) c = Concat<axis = 1>(a, b) r = Relu(c) d = Conv(r, w3)"
        "e = Concat<axis = 1>(c, d)" + HEAD.format("e"),
        [("w1:0", "channels", 4), ("w2:0", "channels", 3), ("w3:0", "channels", 5)],
    ),
    "split": (
        {"w1": (8, 3, 1, 1), "wa": (4, 4, 1, 1), "wy": (8, 5), "by": (5,)},
        "a = Conv(x, w1) u, v = Split<axis = 1, num_outputs = 2>(a) s = Conv(u, wa) "
        "c = Concat<axis = 1>(s, v)" + HEAD.format("c"),
        [("w1:0.0", "channels", 4), ("w1:0.1", "channels", 4), ("wa:0", "channels", 4)],
    ),
    "padded-shortcut": (
        {"w0": (4, 3, 1, 1), "w1": (8, 4, 3, 3), "wy": (8, 5), "by": (5,)},
        "s = Conv(x, w0) a = Conv<pads = [1,1,1,1]>(s, w1) q = Pad(s, pads) t = Add(q, a)" + HEAD.format("t"),
        [("w0:0", "stream", 4), ("w1:0.0", "stream", 2), ("w1:0.2", "stream", 2)],
    ),
    "squeeze-excite": (
        {
            "w1": (6, 3, 1, 1),
            "wa": (4, 6, 1, 1),
            "wb": (6, 4, 1, 1),
            "w2": (4, 6, 1, 1),
            "wy": (4, 5),
            "by": (5,),
        },
        "a = Conv(x, w1) g = GlobalAveragePool(a) h = Conv(g, wa) r = Relu(h) k = Conv(r, wb) s = Sigmoid(k)"
        "m = Mul(a, s) b = Conv(m, w2)" + HEAD.format("b"),
        [("w1:0", "channels", 6), ("wa:0", "channels", 4), ("w2:0", "channels", 4)],
    ),
    "pixel-shuffle": (
        {"w1": (8, 3, 1, 1), "w2": (3, 2, 1, 1), "wy": (3, 5), "by": (5,)},
        'a = Conv(x, w1) d = DepthToSpace<blocksize = 2, mode = "CRD">(a) b = Conv(d, w2)' + HEAD.format("b"),
        [("w1:0.0", "channels", 2), ("w2:0", "channels", 3)],
    ),
    "flattened-image": (
        {"w1": (4, 3, 4, 4), "wy": (16, 5), "by": (5,)},
        "a = Conv<strides = [4,4]>(x, w1) r = Relu(a) f = Reshape(r, flat) y = Gemm(f, wy, by)",
        [("w1:0", "channels", 4)],
    ),
    "group-norm": (
        {"w1": (12, 3, 1, 1), "scale": (12,), "bias": (12,), "w2": (4, 12, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) n = GroupNormalization<num_groups = 3>(a, scale, bias) "
        "b = Conv(n, w2)" + HEAD.format("b"),
        [("w1:0.0", "channels", 3), ("w1:0.1", "channels", 4), ("w2:0", "channels", 4)],
    ),
    "group-norm-as-instance-norm": (
        {
            "w1": (12, 3, 1, 1),
            "scale": (3,),
            "bias": (3,),
            "sc": (12, 1, 1),
            "w2": (4, 12, 1, 1),
            "wy": (4, 5),
            "by": (5,),
        },
        "a = Conv(x, w1) g = Reshape(a, groups) n = InstanceNormalization(g, scale, bias) s = Shape(a)"
        "u = Reshape(n, s) m = Mul(u, sc) b = Conv(m, w2)" + HEAD.format("b"),
        [("w1:0.0", "channels", 3), ("w1:0.1", "channels", 4), ("w2:0", "channels", 4)],
    ),
    "instance-norm": (
        {"w1": (6, 3, 1, 1), "scale": (6,), "bias": (6,), "w2": (4, 6, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) n = InstanceNormalization(a, scale, bias) b = Conv(n, w2)" + HEAD.format("b"),
        [("w1:0", "channels", 6), ("w2:0", "channels", 4)],
    ),
    "shuffle-of-equal-groups": (
        {"w1": (12, 3, 1, 1), "wd": (12, 1, 1, 1), "w2": (4, 12, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) g = Reshape(a, apart) t = Transpose<perm = [0,2,1,3,4]>(g) u = Reshape(t, joined)"
        "d = Conv<group = 12>(u, wd) b = Conv(d, w2)" + HEAD.format("b"),
        [],
    ),
    "resized": (
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "wy": (4, 5), "by": (5,)},
        "a = Conv(x, w1) u = Resize(a, , , sizes) b = Conv(u, w2)" + HEAD.format("b"),
        [("w1:0", "channels", 6), ("w2:0", "channels", 4)],
    ),
}
EXTRA = {
    "unfolded-and-folded": "int64[3] blocks = {0,0,-1}, int64[2] whole = {8,8}, int64[2] block = {2,2}",
    "padded-shortcut": "int64[8] pads = {0,2,0,0,0,2,0,0}",
    "flattened-image": "int64[2] flat = {-1,16}",
    "group-norm-as-instance-norm": "int64[3] groups = {0,3,-1}",
    "shuffle-of-equal-groups": "int64[5] apart = {-1,3,4,8,8}, int64[4] joined = {-1,12,8,8}",
    "resized": "int64[4] sizes = {2,6,4,4}",
}
FIXED_BATCH = {"resized"}


@pytest.mark.parametrize("name", CASES)
def test_finds_and_removes(name: str, build: Build, removes_what_it_zeroes: Check) -> None:
    weights, body, expected = CASES[name]
    opset = 21 if name == "group-norm" else 20
    image, logits = (
        (IMAGE, LOGITS)
        if name not in FIXED_BATCH
        else (IMAGE.replace("batch", "2"), LOGITS.replace("batch", "2"))
    )
    model = build(image, logits, weights, body, EXTRA.get(name, ""), opset=opset)

    coupling = removes_what_it_zeroes(model)

    found = [(group.key, group.kind, group.units) for group in coupling.groups]
    assert set(expected) <= set(found), found
    assert len(found) == len(expected) or not expected, found
