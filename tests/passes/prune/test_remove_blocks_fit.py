"""remove-blocks: what stays, and what takes the place of a branch, is fitted to make up for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice, Feeds
from adapass.errors import DataError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.stand_ins import stand_ins
from adapass.graph.text import clone
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_fit import Refit
from adapass.passes.prune.remove_blocks_similarity import similarities
from tests.passes.prune.residual_nets import (
    IMAGES,
    TOKENS,
    chosen,
    error,
    numbers,
    operators,
    residual_net,
    transformer,
)
from tests.passes.rows import Rows


@pytest.mark.parametrize("setting", ["bias", "linear", "mix"])
@pytest.mark.parametrize("post_norm", [False, True])
def test_scale_and_shift_are_closer_than_nothing(setting: str, post_norm: bool) -> None:
    model, step = transformer(post_norm=post_norm), RemoveBlocks(refit=Refit.NONE)

    for site in ("att1_o_p", "ffn2_2_p"):
        nothing = error(model, chosen(model, {site: "remove"}, step, TOKENS), TOKENS)
        something = error(model, chosen(model, {site: setting}, step, TOKENS), TOKENS)

        assert something < 0.9 * nothing


def test_one_convolution_stands_in_for_a_block() -> None:
    model, step = residual_net(), RemoveBlocks(refit=Refit.NONE)
    unfitted, result = clone(model), chosen(model, {"f2": "convolve"}, step, IMAGES)
    step.apply(unfitted, FactCache(unfitted), [Choice("remove-blocks", "f2", "convolve")])

    # Two convolutions, the activation between them and the sum: one convolution is left, and the activation.
    assert len(operators(result)) == len(operators(model)) - 3
    assert operators(unfitted) == operators(result)
    product = next(node for node in result.graph if node.outputs[0].name == "f2")
    assert product.inputs[0] is not None
    assert product.inputs[0].name == "r1"
    assert stand_ins(result)["s2"] == "f2"
    removed = error(model, chosen(model, {"f2": "remove"}, step, IMAGES), IMAGES)
    mixed = error(model, chosen(model, {"f2": "mix"}, step, IMAGES), IMAGES)
    assert error(model, unfitted, IMAGES) == pytest.approx(removed, rel=1e-3)
    assert error(model, result, IMAGES) < 0.9 * mixed < 0.9 * removed


def test_single_choices_are_sketched() -> None:
    sketch = RemoveBlocks(damping=0.5).sketch

    assert sketch.calibration_samples < RemoveBlocks().calibration_samples
    assert sketch.reach < RemoveBlocks().reach
    assert sketch == replace(sketch, damping=0.5)
    assert sketch.sketch == sketch


def test_reach_ends_the_refitting() -> None:
    model = residual_net()
    near = chosen(model, {"f1": "remove"}, RemoveBlocks(reach=1), IMAGES)

    assert not np.array_equal(numbers(near, "v2"), numbers(model, "v2"))
    assert np.array_equal(numbers(near, "v3"), numbers(model, "v3"))


def test_scale_and_shift_of_an_image_are_one_depthwise_convolution() -> None:
    model, step = residual_net(), RemoveBlocks(refit=Refit.NONE)
    result = chosen(model, {"f2": "linear"}, step, IMAGES)

    depthwise = [node for node in result.graph if node.attributes.get_int("group", 1) == 6]
    assert len(depthwise) == 1
    removed = error(model, chosen(model, {"f2": "remove"}, step, IMAGES), IMAGES)
    assert error(model, result, IMAGES) < 0.7 * removed


@pytest.mark.parametrize(
    ("post_norm", "setting", "operator"),
    [
        pytest.param(True, "linear", "LayerNormalization", id="scale-and-shift-into-the-norm-before"),
        pytest.param(True, "bias", "LayerNormalization", id="shift-into-the-norm-before"),
        pytest.param(False, "bias", "Add", id="shift-into-the-bias-before"),
    ],
)
def test_scale_and_shift_are_folded_where_nobody_else_reads(
    post_norm: bool, setting: str, operator: str
) -> None:
    model = transformer(post_norm=post_norm)
    removed = chosen(model, {"ffn1_2_p": "remove"}, RemoveBlocks(refit=Refit.NONE), TOKENS)
    fitted = chosen(model, {"ffn1_2_p": setting}, RemoveBlocks(refit=Refit.NONE), TOKENS)

    count = len(operators(removed)) - (setting == "linear")  # with the scale goes a normalisation
    assert len(operators(fitted)) == count
    assert operator in operators(fitted)
    assert error(model, fitted, TOKENS) < error(model, removed, TOKENS)


def test_scale_and_shift_are_the_least_squares_line() -> None:
    model = transformer(post_norm=False)
    result = chosen(model, {"ffn2_2_p": "linear"}, RemoveBlocks(refit=Refit.NONE), TOKENS)
    feeds = TOKENS.batch(range(len(TOKENS)))
    known = Session(model, outputs=["att2", "ffn2"]).run(feeds)
    x, y = (known[name].astype(np.float64).reshape(-1, 8) for name in ("att2", "ffn2"))

    found = {value.name: value.const_value for value in result.graph.initializers.values()}

    for channel in range(8):
        slope, offset = np.polyfit(x[:, channel], y[:, channel], 1)
        scale, shift = found["ffn2_scale"], found["ffn2_shift"]
        assert scale is not None
        assert shift is not None
        assert scale.numpy()[channel] == pytest.approx(slope, abs=1e-4)
        assert shift.numpy()[channel] == pytest.approx(offset, abs=1e-4)


@pytest.mark.parametrize("refit", [Refit.LAST, Refit.ALL])
@pytest.mark.parametrize(
    ("model", "sites", "data"),
    [
        pytest.param(residual_net(), ("f2",), IMAGES, id="one-convolution-block"),
        pytest.param(residual_net(), ("f1", "f2"), IMAGES, id="two-blocks-behind-each-other"),
        pytest.param(transformer(post_norm=False), ("att2_o_p",), TOKENS, id="attention"),
        pytest.param(transformer(post_norm=False), ("ffn1",), TOKENS, id="layer"),
        pytest.param(transformer(post_norm=True), ("ffn1_2_p",), TOKENS, id="post-norm"),
    ],
)
def test_refitting_what_stays_is_closer(
    model: ir.Model, sites: tuple[str, ...], data: Rows, refit: Refit
) -> None:
    wanted = dict.fromkeys(sites, "remove")

    plain, fitted = (
        error(model, chosen(model, wanted, RemoveBlocks(refit=how), data), data)
        for how in (Refit.NONE, refit)
    )

    assert fitted < 0.6 * plain


def test_the_branch_in_front_of_a_removed_one_is_fitted_to_the_sum_behind_it() -> None:
    model = residual_net()
    result = chosen(model, {"f2": "remove"}, RemoveBlocks(refit=Refit.LAST, damping=1e-6), IMAGES)

    feeds = IMAGES.batch(range(len(IMAGES)))
    wanted = Session(model, outputs=["s2"]).run(feeds)["s2"].astype(np.float64)
    before = Session(model, outputs=["s1"]).run(feeds)["s1"].astype(np.float64)
    after = Session(result, outputs=["s1"]).run(feeds)["s1"].astype(np.float64)

    assert np.mean((after - wanted) ** 2) < 0.5 * np.mean((before - wanted) ** 2)


def test_what_is_in_front_of_all_that_was_removed_stays_as_it_is() -> None:
    model = residual_net()
    result = chosen(model, {"f3": "remove"}, RemoveBlocks(refit=Refit.ALL), IMAGES)

    same = {
        name: np.array_equal(numbers(model, name), numbers(result, name))
        for name in ("w0", "w1", "v1", "w2", "v2", "w4", "v4", "wy")
    }
    # f2 is on the stream before it was cut to size, so only what comes behind can make up for f3.
    assert same == {
        "w0": True,
        "w1": True,
        "v1": True,
        "w2": True,
        "v2": True,
        "w4": False,
        "v4": False,
        "wy": True,
    }


def test_fitting_twice_gives_the_same_bits() -> None:
    model = residual_net()
    first, second = (
        chosen(model, {"f2": "remove", "f4": "linear"}, RemoveBlocks(), IMAGES) for _ in range(2)
    )

    assert all(
        np.array_equal(numbers(first, name), numbers(second, name)) for name in first.graph.initializers
    )


def test_lengths_may_differ() -> None:
    """Samples of several lengths are walked group by group, without padding."""

    @dataclass(frozen=True)
    class Ragged(Rows):
        def batch(self, indices: Sequence[int]) -> Feeds:
            length = max(3 + index % 3 for index in indices)
            return {"x": self.arrays["x"][list(indices), :length]}

    model = transformer(post_norm=True)
    ragged = Ragged(TOKENS.arrays)
    plain, fitted = (
        error(model, chosen(model, {"ffn1_2_p": "remove"}, RemoveBlocks(refit=how), ragged), TOKENS)
        for how in (Refit.NONE, Refit.ALL)
    )

    assert fitted < plain


def test_without_data_only_removal_is_possible() -> None:
    model = residual_net()
    copy = clone(model)
    RemoveBlocks().apply(copy, FactCache(copy), [Choice("remove-blocks", "f2", "linear")])

    with pytest.raises(DataError, match="1 linear maps"):
        RemoveBlocks().fit(copy, None)


def test_similarity_is_the_cosine_before_and_behind() -> None:
    model = residual_net()
    feeds = IMAGES.batch(range(len(IMAGES)))
    known = Session(model, outputs=["r1", "r2"]).run(feeds)
    a, b = (np.moveaxis(known[name].astype(np.float64), 1, -1).reshape(-1, 6) for name in ("r1", "r2"))

    found = similarities(model, FactCache(model), IMAGES, count=len(IMAGES))

    cosines = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    assert set(found) == {"f1", "f2", "f3", "f4"}
    assert found["f2"] == pytest.approx(cosines.mean(), abs=0.02)
    assert all(-1.0 <= value <= 1.0 for value in found.values())


def test_a_branch_that_adds_nothing_is_most_similar() -> None:
    model = transformer(post_norm=True)
    tensor = model.graph.initializers["ffn1_2_w"].const_value
    assert tensor is not None
    model.graph.initializers["ffn1_2_w"].const_value = ir.tensor(tensor.numpy() * 0.0, name="ffn1_2_w")
    model.graph.initializers["ffn1_2_c"].const_value = ir.tensor(np.zeros(8, np.float32), name="ffn1_2_c")

    found = similarities(model, FactCache(model), TOKENS)

    assert max(found, key=lambda site: found[site]) == "ffn1_2_p"
