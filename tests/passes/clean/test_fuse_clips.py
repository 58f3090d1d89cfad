"""fuse-clips: a clamp of a clamp is a clamp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone, parse
from adapass.passes.clean.fuse_clips import FuseClips

C = "float z = {0}, float six = {6}, float m = {-1}"


@pytest.mark.parametrize(
    ("line", "after"),
    [
        pytest.param(
            "r = Relu(x) y = Clip(r, m, six)",
            "<float y_low = {0}, float y_high = {6}> { y = Clip(x, y_low, y_high) }",
            id="relu-clip",
        ),
        pytest.param(
            "r = Relu(x) y = Min(six, r)",
            "<float y_low = {0}, float y_high = {6}> { y = Clip(x, y_low, y_high) }",
            id="relu-min",
        ),
        pytest.param("r = Relu(x) y = Relu(r)", "{ y = Relu(x) }", id="relu-relu"),
        pytest.param("r = Clip(x, m) y = Max(r, z)", "{ y = Relu(x) }", id="clip-max"),
        pytest.param(
            "r = Clip(x, m, m) y = Relu(r)",
            "<float y_low = {0}, float y_high = {0}> { y = Clip(x, y_low, y_high) }",
            id="ranges-that-do-not-meet",
        ),
    ],
)
def test_fuses(line: str, after: str, fires: Any) -> None:
    fires(
        FuseClips(),
        f"g (float[N,4] x) => (float[N,4] y) <{C}> {{ {line} }}",
        f"g (float[N,4] x) => (float[N,4] y) {after}",
    )


@settings(max_examples=25, deadline=None)
@given(bounds=st.lists(st.integers(-4, 4), min_size=4, max_size=4))
def test_picks_the_same_numbers(bounds: list[int]) -> None:
    (a, b), (c, d) = sorted(bounds[:2]), sorted(bounds[2:])
    model = parse(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[11] x) => (float[11] y)
            <float a = {{{a}}}, float b = {{{b}}}, float c = {{{c}}}, float d = {{{d}}}>
            {{ r = Clip(x, a, b) s = Max(r, c) y = Min(d, s) }}"""
    )
    fused = clone(model)

    assert FuseClips().run(fused, FactCache(fused)).changed

    feeds = {"x": np.arange(-5, 6, dtype=np.float32)}
    assert np.array_equal(Session(model).run(feeds)["y"], Session(fused).run(feeds)["y"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", "no other clamp comes before", id="alone"
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y, float[N,4] r) { r = Relu(x) y = Relu(r) }",
            "the value between has another reader",
            id="value-between-is-returned",
        ),
        pytest.param(
            "g (float[N,4] x, float b) => (float[N,4] y) { r = Relu(x) y = Clip(r, b) }",
            "a bound is not one constant number",
            id="bound-is-an-input",
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) <float[4] b = {1, 2, 3, 4}> { r = Relu(x) y = Min(r, b) }",
            "a bound is not one constant number",
            id="bound-is-a-vector",
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) <float b = {nan}> { r = Relu(x) y = Clip(r, b) }",
            "a bound is not one constant number",
            id="bound-is-not-a-number",
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) <float a = {2}, float b = {1}> "
            "{ r = Relu(x) y = Clip(r, a, b) }",
            "a bound is not one constant number",
            id="bounds-in-the-wrong-order",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str, declines: Any) -> None:
    declines(FuseClips(), text, reason)


def test_needs_clip_with_bounds_as_inputs(declines: Any) -> None:
    declines(
        FuseClips(),
        "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Clip<max = 6.0>(r) }",
        "the opset has no Clip with bounds as inputs",
        opset=10,
    )
