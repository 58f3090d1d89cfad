"""Generated inputs: shapes, types and roles fit, content is noise, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import ModelError
from adapass.execution import Session
from adapass.graph.inputs import generate_feeds
from adapass.graph.text import parse

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
ENCODER = f"""{HEADER}g (int64[B,S] ids, int64[B,S] mask, int32[B,S] kinds) => (float[B,S,2] y)
  <float[5,2] words = {{0,1,2,3,4,5,6,7,8,9}}, float[2,2] types = {{0,1,2,3}}>
  {{ last = Constant<value_ints = [-1]>() e = Gather(words, ids) c = Cast<to = 7>(kinds) u = Gather(types, c)
    h = Add(e, u) m = Cast<to = 1>(mask) k = Unsqueeze(m, last) y = Mul(h, k) }}"""


def test_an_encoder_gets_ids_masks_and_kinds() -> None:
    model = parse(ENCODER)

    feeds = generate_feeds(model, seed=0)

    assert [feed["ids"].shape[0] for feed in feeds] == [1, 2, 3]
    assert len({feed["ids"].shape[1] for feed in feeds}) == 3
    for feed in feeds:
        assert feed["ids"].shape == feed["mask"].shape == feed["kinds"].shape
        assert feed["kinds"].dtype == np.int32
        assert 0 <= int(feed["ids"].min(initial=9)) <= int(feed["ids"].max(initial=0)) < 5
        assert set(np.unique(feed["kinds"]).tolist()) <= {0, 1}
        mask = feed["mask"].astype(np.int64)
        assert mask[:, 0].all()
        assert mask[0].all()
        assert (np.diff(mask, axis=1) <= 0).all()
        Session(model).run(feed)
    assert any(0 in feed["mask"] for feed in feeds)


def test_the_seed_decides() -> None:
    model = parse(ENCODER)
    first, again, other = (generate_feeds(model, seed=seed) for seed in (1, 1, 2))

    assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
    assert not all(np.array_equal(a[name], b[name]) for a, b in zip(first, other, strict=True) for name in a)


def test_fixed_dimensions_stay_and_floats_are_normal() -> None:
    model = parse(HEADER + "g (float[4,3,16,16] x) => (float[4,3,16,16] y) { y = Relu(x) }")

    feeds = generate_feeds(model, seed=0, cases=2)

    assert [feed["x"].shape for feed in feeds] == [(4, 3, 16, 16)] * 2
    assert feeds[0]["x"].dtype == np.float32
    assert abs(float(feeds[0]["x"].astype(np.float64).std()) - 1) < 0.1


def test_image_sides_are_multiples_of_32() -> None:
    model = parse(HEADER + "g (float[B,3,H,W] x) => (float[B,3,H,W] y) { y = Relu(x) }")

    assert all(
        feed["x"].shape[2] % 32 == feed["x"].shape[3] % 32 == 0 for feed in generate_feeds(model, seed=0)
    )


def test_inputs_with_defaults_are_left_out() -> None:
    text = "g (float[N,2] x, float[2] w) => (float[N,2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"

    assert list(generate_feeds(parse(HEADER + text), seed=0)[0]) == ["x"]


def test_says_which_input_cannot_be_generated() -> None:
    text = "g (seq(float[N]) s) => (int64 y) { y = SequenceLength(s) }"

    with pytest.raises(ModelError, match="input 's' is not a tensor"):
        generate_feeds(parse(HEADER + text), seed=0)
