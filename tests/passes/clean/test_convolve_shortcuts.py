"""convolve-shortcuts: a subsampled, padded shortcut is a copying convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone, parse
from adapass.passes.clean.convolve_shortcuts import ConvolveShortcuts

MAX = 9223372036854775807
C = f"""int64[1] zero = {{0}}, int64[1] end = {{{MAX}}}, int64[1] rows = {{2}}, int64[1] columns = {{3}},
        int64[1] two = {{2}}, int64[1] one = {{1}}, int64[1] five = {{5}}, int64[1] six = {{6}},
        int64[1] channels = {{1}}, float nought = {{0}}, float half = {{0.5}},
        int64[8] pads = {{0, 1, 0, 0, 0, 2, 0, 0}}, int64[8] wide = {{0, 1, 1, 0, 0, 2, 0, 0}}"""
SLICES = "a = Slice(x, zero, end, rows, two) b = Slice(a, zero, end, columns, two)"
COPIES = "0,0, 1,0, 0,1, 0,0, 0,0"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"{SLICES} y = Pad(b, pads)", id="two-slices"),
        pytest.param(f"{SLICES} y = Pad(b, pads, nought)", id="zero-is-given"),
        pytest.param(
            "a = Slice(x, zero, six, rows, two) b = Slice(a, zero, end, columns, two) y = Pad(b, pads)",
            id="end-is-the-height",
        ),
    ],
)
def test_fuses(line: str, fires: Any) -> None:
    fires(
        ConvolveShortcuts(),
        f"g (float[N,2,6,6] x) => (float[N,5,3,3] y) <{C}> {{ {line} }}",
        f"""g (float[N,2,6,6] x) => (float[N,5,3,3] y) <float[5,2,1,1] y_copies = {{{COPIES}}}>
            {{ y = Conv<kernel_shape = [1, 1], strides = [2, 2]>(x, y_copies) }}""",
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4), (8, 8)])
@pytest.mark.parametrize("step", [(2, 2), (3, 1), (1, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_copies_the_same_numbers(size: tuple[int, int], step: tuple[int, int], batch: int) -> None:
    model = parse(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[N,2,H,W] x) => (float[N,5,P,Q] y)
            <int64[2] zero = {{0, 0}}, int64[2] end = {{{MAX}, {MAX}}}, int64[2] axes = {{2, 3}},
             int64[2] steps = {{{step[0]}, {step[1]}}}, int64[8] pads = {{0, 1, 0, 0, 0, 2, 0, 0}}>
            {{ a = Slice(x, zero, end, axes, steps) y = Pad(a, pads) }}"""
    )
    fused = clone(model)
    assert ConvolveShortcuts().run(fused, FactCache(fused)).changed

    feeds = {"x": np.random.default_rng(0).standard_normal((batch, 2, *size)).astype(np.float32)}

    assert np.array_equal(Session(model).run(feeds)["y"], Session(fused).run(feeds)["y"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("y = Pad(x, pads)", "nothing is subsampled"),
        (f"{SLICES} y = Pad(b, wide)", "more than the channels is padded"),
        (f"{SLICES} y = Pad(b, pads, half)", "the padding is not by zero"),
        (f'{SLICES} y = Pad<mode = "edge">(b, pads)', "the padding copies numbers"),
        ("a = Slice(x, one, end, rows, two) y = Pad(a, pads)", "a slice takes a part of the image"),
        ("a = Slice(x, zero, five, rows, two) y = Pad(a, pads)", "a slice takes a part of the image"),
        ("a = Slice(x, zero, end, channels, two) y = Pad(a, pads)", "a slice takes a part of the image"),
    ],
)
def test_declines(line: str, reason: str, declines: Any) -> None:
    declines(ConvolveShortcuts(), f"g (float[N,2,6,6] x) => (float[N,P,Q,R] y) <{C}> {{ {line} }}", reason)


def test_keeps_a_subsampled_image_that_others_read(declines: Any) -> None:
    text = f"""g (float[N,2,6,6] x) => (float[N,5,3,3] y, float[N,2,3,3] z) <{C}>
               {{ {SLICES} y = Pad(b, pads) z = Relu(b) }}"""

    declines(ConvolveShortcuts(), text, "the subsampled image has another reader")


def test_refuses_a_huge_copy(declines: Any) -> None:
    text = f"""g (float[N,600,6,6] x) => (float[N,603,3,3] y) <{C}> {{ {SLICES} y = Pad(b, pads) }}"""

    declines(ConvolveShortcuts(), text, "the convolution would have too many weights")
