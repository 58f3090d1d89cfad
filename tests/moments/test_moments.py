"""Streaming moments equal those of all rows at once; padding and filling never count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from adapass.budgeted import Array, Feeds
from adapass.errors import DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.graph.text import parse
from adapass.moments import Source, cross_moments, gather, moments, window_of
from adapass.moments import second as second_module
from adapass.moments.batches import Batches
from adapass.moments.second import BLOCK, MomentSums
from adapass.moments.sources import Layout, Selection, Window, take_rows

CONVS = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3, 7, 6] x) => (float[N, 5, A, B] y)
<float[4, 3, 3, 3] w {W}, float[4] b {B}, float[5, 4, 3, 2] v {V}>
{
    h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (h)
    y = Conv <kernel_shape = [3, 2], ATTRIBUTES> (r, v)
}
"""

TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
net (int64[N, T] ids, int64[N, T] mask) => (float[N, 2] y)
<float[9, 4] table {TABLE}, float[4, 3] w {W}, float[3, 2] v {V}, int64[1] last = {-1}, int64[1] one = {1}>
{
    e = Gather (table, ids)
    h = MatMul (e, w)
    m = Cast <to = 1> (mask)
    mm = Unsqueeze (m, last)
    hm = Mul (h, mm)
    s = ReduceSum <keepdims = 0> (hm, one)
    y = MatMul (s, v)
}
"""


def _numbers(count: int, seed: int) -> str:
    return "= {" + ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count)) + "}"


def _convs(attributes: str) -> str:
    text = CONVS.replace("{W}", _numbers(108, 1)).replace("{B}", _numbers(4, 2))
    return text.replace("{V}", _numbers(120, 3)).replace("ATTRIBUTES", attributes)


@dataclass(frozen=True)
class Images:
    images: Array
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.images)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self.images[list(indices)]}


@dataclass(frozen=True)
class Sentences:
    """Ids with true lengths; batches are padded to the longest (or always to ``width``)."""

    lengths: tuple[int, ...]
    width: int | None = None
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        width = self.width or max(self.lengths[i] for i in indices)
        ids = np.full((len(indices), width), 8, np.int64)
        mask = np.zeros((len(indices), width), np.int64)
        for row, index in enumerate(indices):
            length = self.lengths[index]
            ids[row, :length] = (np.arange(length) * (index + 1)) % 8
            mask[row, :length] = 1
        return {"ids": ids, "mask": mask}


def _images(count: int = 70) -> Images:
    return Images(np.random.default_rng(0).normal(size=(count, 3, 7, 6)).astype(np.float32))


def test_moments_are_those_of_all_positions_at_once() -> None:
    model, data = parse(_convs("pads = [0, 0, 0, 0]")), _images()

    found = moments(model, {"r": 1, "x": 1}, data, rows_each=None)

    r = Session(model, outputs=["r"]).run({"x": data.images})["r"].astype(np.float64)
    rows = np.moveaxis(r, 1, -1).reshape(-1, 4)
    assert found["r"].rows == len(rows) == 70 * 42
    np.testing.assert_allclose(found["r"].total, rows.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["r"].gram, rows.T @ rows, rtol=1e-5)
    np.testing.assert_allclose(found["r"].covariance, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-6)
    assert found["x"].gram.shape == (3, 3)


@pytest.mark.parametrize(
    "attributes",
    [
        "pads = [1, 0, 1, 2]",
        "strides = [2, 1], pads = [0, 1, 2, 0]",
        "dilations = [1, 3], strides = [1, 2], pads = [1, 1, 1, 1]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "SAME_LOWER", strides = [2, 1]',
        'auto_pad = "VALID", dilations = [2, 1]',
    ],
)
@pytest.mark.parametrize("rows_each", [None, 5])
def test_patches_times_the_weight_are_what_the_convolution_computes(
    attributes: str, rows_each: int | None
) -> None:
    model, data = parse(_convs(attributes)), _images(9)
    node = model.graph.outputs[0].producer()
    assert node is not None
    weight = model.graph.initializers["v"].const_value
    assert weight is not None
    matrix = weight.numpy().reshape(5, -1)
    selection = Selection(tuple(range(9)), None, rows_each)
    values = Session(model, outputs=["r", "y"]).run({"x": data.images})

    x = take_rows(values["r"], Source("r", 1, window_of(node, (3, 2))), Layout(0, None), selection)
    y = take_rows(values["y"], Source("y", 1), Layout(0, None), selection)

    assert len(x) == (9 * 5 if rows_each else values["y"].size // 5)
    np.testing.assert_allclose(x @ matrix.T, y, atol=1e-4)


def test_a_group_of_channels_has_its_own_patches() -> None:
    window = Window((3,), (1,), (1,), (1, 1))
    array = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    selection = Selection((0, 1), None, None)

    whole = take_rows(array, Source("v", 1, window), Layout(0, None), selection)
    part = take_rows(array, Source("v", 1, window, (1, 3)), Layout(0, None), selection)
    plain = take_rows(array, Source("v", 1, channels=(1, 3)), Layout(0, None), selection)

    np.testing.assert_array_equal(part, whole[:, 3:9])
    np.testing.assert_array_equal(plain, np.moveaxis(array, 1, -1).reshape(-1, 4)[:, 1:3])


def _token_text() -> str:
    text = TOKENS.replace("{TABLE}", _numbers(36, 1)).replace("{W}", _numbers(12, 2))
    return text.replace("{V}", _numbers(6, 3))


@pytest.mark.parametrize("width", [None, 9], ids=["trimmed", "padded-always"])
def test_padding_positions_are_left_out(width: int | None) -> None:
    model, data = parse(_token_text()), Sentences((3, 7, 3, 5, 9, 4, 7), width)

    found = moments(model, {"h": 2}, data)["h"]

    session = Session(model, outputs=["h"])
    rows = np.concatenate(
        [session.run(data.feeds(i))["h"][0, :length] for i, length in enumerate(data.lengths)]
    ).astype(np.float64)
    assert found.rows == sum(data.lengths)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-5)


def test_at_most_so_many_tokens_a_sample_and_only_real_ones() -> None:
    model, data = parse(_token_text()), Sentences((3, 7, 3, 5, 9, 4, 7), 9)

    assert moments(model, {"h": 2}, data, rows_each=4)["h"].rows == 3 + 4 + 3 + 4 + 4 + 4 + 4


def test_tokens_flattened_with_the_batch_are_told_from_padding() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.bool_)
    array = np.arange(6 * 2, dtype=np.float32).reshape(6, 2)

    rows = take_rows(array, Source("v", 1), Layout(None, None), Selection((0, 1), mask, None))

    np.testing.assert_array_equal(rows, array[[0, 1, 3]])


def test_tokens_first_and_heads_in_between_are_told_from_padding() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.bool_)
    array = np.arange(3 * 2 * 4 * 5, dtype=np.float32).reshape(3, 2, 4, 5)  # tokens, batch, heads, channels

    rows = take_rows(array, Source("v", 3), Layout(1, 0), Selection((0, 1), mask, None))

    np.testing.assert_array_equal(rows, np.concatenate([array[:2, 0].reshape(-1, 5), array[0, 1]]))


def test_a_fixed_batch_is_filled_and_the_filling_does_not_count() -> None:
    text = _convs("pads = [0, 0, 0, 0]").replace("[N, 3", "[4, 3").replace("[N, 5", "[4, 5")

    found = moments(parse(text), {"r": 1}, _images(6), rows_each=None)["r"]

    free = moments(parse(_convs("pads = [0, 0, 0, 0]")), {"r": 1}, _images(6), rows_each=None)["r"]
    assert found.rows == free.rows
    np.testing.assert_allclose(found.gram, free.gram, rtol=1e-5)


def test_many_sums_take_several_runs_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = parse(_convs("pads = [0, 0, 0, 0]")), _images(12)
    sources = (Source("x", 1), Source("r", 1), Source("y", 1))
    at_once = gather(model, sources, Batches.of(model, data))

    monkeypatch.setattr(second_module, "GRAM_BYTES", 130)
    one_by_one = gather(model, sources, Batches.of(model, data))

    for source in sources:
        np.testing.assert_array_equal(at_once[source].gram, one_by_one[source].gram)


def test_cross_moments_pair_rows_of_two_models() -> None:
    original, data = parse(_convs("pads = [0, 0, 0, 0]")), _images(20)
    other = original.clone()
    other.graph.initializers["b"].const_value = original.graph.initializers["b"].const_value
    pair = (Source("r", 1, Window((3, 2), (1, 1), (1, 1), (0, 0, 0, 0))), Source("y", 1))

    found = cross_moments(original, other, [pair], data)[pair]

    weight = original.graph.initializers["v"].const_value
    assert weight is not None
    solved = np.linalg.solve(found.x.gram, found.cross)
    np.testing.assert_allclose(solved.T, weight.numpy().reshape(5, -1), atol=1e-3)
    assert found.squares.shape == found.total.shape == (5,)
    assert (found.squares * found.x.rows >= found.total**2).all()


def test_the_same_bits_every_time() -> None:
    model, data = parse(_convs("pads = [0, 0, 0, 0]")), _images(40)

    first, second = (moments(model, {"r": 1, "y": 1}, data) for _ in range(2))

    for name, one in first.items():
        np.testing.assert_array_equal(one.gram, second[name].gram)


def test_a_position_is_chosen_by_its_sample_whatever_the_batch() -> None:
    model, data = parse(_convs("pads = [0, 0, 0, 0]")), _images(10)

    small, large = (
        gather(model, (Source("r", 1),), Batches.of(model, data, size=size, rows_each=7))[Source("r", 1)]
        for size in (3, 10)
    )

    np.testing.assert_allclose(small.gram, large.gram, rtol=1e-12)


def test_bad_requests_say_what_is_wrong() -> None:
    model, data = parse(_convs("pads = [0, 0, 0, 0]")), _images(4)

    with pytest.raises(UsageError, match="no value 'nothing'"):
        moments(model, {"nothing": 1}, data)
    with pytest.raises(DataError, match="no samples"):
        moments(model, {"r": 1}, _images(0))
    with pytest.raises(ModelError, match="axis 7"):
        moments(model, {"r": 7}, data)
    with pytest.raises(UsageError, match="must pair up"):
        cross_moments(model, model, [(Source("x", 1), Source("y", 1))], data, rows_each=None)


def test_sentences_of_similar_length_may_be_padded_together() -> None:
    model, data = parse(_token_text()), Sentences((3, 7, 3, 5, 9, 4, 7))
    apart = Batches.of(model, data, size=3)
    together = Batches.of(model, data, size=3, padded=True)

    found = [gather(model, [Source("h", 2)], batches)[Source("h", 2)] for batches in (apart, together)]

    assert len(apart.groups) == 5
    assert together.groups == ((0, 2, 5), (3, 1, 6), (4,))
    assert found[0].rows == found[1].rows == sum(data.lengths)
    np.testing.assert_allclose(found[0].gram, found[1].gram, rtol=1e-5)


def test_without_a_mask_nothing_is_padded() -> None:
    model, data = parse(_convs("strides = [1, 1]")), _images(5)

    assert Batches.of(model, data, size=2, padded=True).groups == Batches.of(model, data, size=2).groups


def test_only_the_samples_asked_for() -> None:
    model, data = parse(_token_text()), Sentences((3, 7, 3, 5, 9, 4, 7))

    seen = gather(model, [Source("h", 2)], Batches.of(model, data, indices=[1, 4]))

    assert seen[Source("h", 2)].rows == 7 + 9


def test_rows_wait_until_a_block_is_full_and_none_is_lost() -> None:
    rows = np.random.default_rng(0).normal(size=(2 * BLOCK + 300, 4)).astype(np.float32)
    sums = MomentSums()
    for start in range(0, len(rows), 100):
        sums.add(rows[start : start + 100])

    found = sums.done("x")

    wide = rows.astype(np.float64)
    assert found.rows == len(rows)
    np.testing.assert_allclose(found.gram, wide.T @ wide, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found.total, wide.sum(axis=0), rtol=1e-6)
