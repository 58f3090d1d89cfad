"""remove-blocks: which residual branches can go, and what is left when they are gone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.stand_ins import stand_ins
from adapass.graph.text import clone, parse
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_fit import Refit
from adapass.passes.prune.remove_blocks_rewrite import Setting
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from tests.passes.prune.residual_nets import (
    IMAGES,
    TOKENS,
    bottleneck,
    chosen,
    error,
    operators,
    residual_net,
    transformer,
)


def test_proposes_every_branch_and_whole_layers() -> None:
    model = transformer(post_norm=False)

    choices = RemoveBlocks().propose(model, FactCache(model)).choices

    found: dict[str, list[str]] = {}
    for choice in choices:
        found.setdefault(choice.site, []).append(choice.setting)
    every = ["remove", "mix", "linear", "bias"]
    assert found == {
        "att1_o_p": every, "ffn1_2_p": every, "ffn1": ["remove"],
        "att2_o_p": every, "ffn2_2_p": every, "ffn2": ["remove"],
    }  # fmt: skip
    layer = next(choice for choice in choices if choice.site == "ffn1")
    assert layer.detail["parts"] == ["attention", "products"]
    assert {("remove-blocks", "att1_o_p"), ("remove-blocks", "ffn1_2_p")} <= layer.excludes
    assert ("quantize-8bit", "ffn1_1_p") in layer.excludes
    assert ("quantize-8bit", "ffn2_1_p") not in layer.excludes
    assert ("prune-structures", "ffn1_1_w:1") in layer.excludes
    assert ("prune-structures", "ffn1_2_w:1") not in layer.excludes


def test_convolutions_have_no_shift_alone() -> None:
    model = residual_net()

    choices = RemoveBlocks().propose(model, FactCache(model)).choices

    assert [(c.site, c.setting) for c in choices] == [
        (f"f{i}", setting) for i in range(1, 5) for setting in ("remove", "convolve", "mix", "linear")
    ]


REFUSED = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 4] x, float[N, 4] z) => (float[N, 4] y, float[N, 4] v, float[N, 4] u, float[N, 4] t)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}, float[4, 1] n = {1, 2, 3, 4}>
{
    a = MatMul(x, w)
    b = MatMul(z, w)
    y = Add(a, b)
    c = Relu(a)
    d = Sigmoid(c)
    v = Add(c, d)
    e0 = MatMul(b, w)
    e = MatMul(e0, n)
    u = Add(b, e)
    f = MatMul(x, w)
    t = Add(b, f)
}
"""


def test_refuses_sums_that_are_no_residual_branches() -> None:
    model = parse(REFUSED)

    proposal = RemoveBlocks().propose(model, FactCache(model))

    assert {refusal.site: refusal.reason for refusal in proposal.refusals} == {
        "y": "both sides of the addition run for others as well",
        "v": "nothing learned is added to the stream",
        "u": "the stream and what is added to it differ in shape",
        "t": "what is added is not computed from the stream",
    }


def test_removing_a_convolution_block_leaves_the_stream_alone() -> None:
    model = residual_net()

    result = chosen(model, {"f2": "remove"}, RemoveBlocks(), None)

    # Two convolutions, the activation between them, the sum, and a Relu of what is a Relu already.
    assert len(operators(result)) == len(operators(model)) - 5
    assert stand_ins(result)["r2"] == "r1"
    expected = clone(model)
    for name in ("v2", "d2"):
        tensor = expected.graph.initializers[name].const_value
        assert tensor is not None
        expected.graph.initializers[name].const_value = ir.tensor(np.zeros_like(tensor.numpy()), name=name)
    assert error(expected, result, IMAGES) < 1e-12


def test_a_block_behind_a_shortcut_of_another_size_leaves_the_shortcut() -> None:
    result = chosen(residual_net(), {"f3": "remove", "f4": "remove"}, RemoveBlocks(), None)

    assert operators(result).count("Conv") == 5
    assert operators(result)[-4:] == ["Slice", "Pad", "ReduceMean", "MatMul"]


@pytest.mark.parametrize("post_norm", [False, True])
def test_removing_all_leaves_the_embedding(post_norm: bool) -> None:
    model = transformer(post_norm=post_norm)

    result = RemoveBlocks(layers=False, refit=Refit.NONE)
    copy = clone(model)
    assert result.run(copy, FactCache(copy)).applied == 4

    assert "Softmax" not in operators(copy)
    assert operators(copy).count("MatMul") == 2


def test_an_output_of_the_model_keeps_its_name() -> None:
    model = residual_net()
    sums = {node.outputs[0].name: node.outputs[0] for node in model.graph}
    model.graph.outputs.append(sums["s4"])

    result = chosen(model, {"f4": "convolve"}, RemoveBlocks(), IMAGES)

    assert [value.name for value in result.graph.outputs] == ["y", "s4"]


def test_what_stands_in_for_a_block_can_be_had_in_8_bits() -> None:
    model = residual_net()
    choices = {choice.setting: choice for choice in RemoveBlocks().propose(model, FactCache(model)).choices}

    for setting in ("convolve", "mix"):
        assert ("quantize-8bit", "f4") not in choices[setting].excludes
        assert ("quantize-8bit", "a4") in choices[setting].excludes
        changed = chosen(model, {"f4": setting}, RemoveBlocks(), IMAGES)
        sites = [site.name for site in Quantize8bit(min_conv_elements=1).sites(changed)]
        assert "f4" in sites
        assert "a4" not in sites
    assert ("quantize-8bit", "f4") in choices["remove"].excludes


def test_bottlenecks_are_narrower_than_one_convolution() -> None:
    model = bottleneck()

    found = [(c.site, c.setting) for c in RemoveBlocks().propose(model, FactCache(model)).choices]

    assert ("e", "mix") in found
    assert ("e", "convolve") not in found


def test_refuses_what_overlaps_and_what_is_not_there() -> None:
    model = transformer(post_norm=False)
    wrong = [
        [("ffn1", "remove"), ("att1_o_p", "remove")],
        [("ffn1", "linear")],
        [("nowhere", "remove")],
    ]

    for pairs in wrong:
        copy = clone(model)
        with pytest.raises(UsageError):
            RemoveBlocks().apply(copy, FactCache(copy), [Choice("remove-blocks", s, w) for s, w in pairs])
        assert error(model, copy, TOKENS) == 0.0


def test_skipped_sites_and_settings_are_not_offered() -> None:
    model = transformer(post_norm=True)
    step = RemoveBlocks(skip_sites=("ffn1_2_p", "ffn2_n"), settings=(Setting.LINEAR, Setting.REMOVE))

    choices = step.propose(model, FactCache(model)).choices

    assert [(c.site, c.setting) for c in choices] == [
        ("att1_o_p", "linear"), ("att1_o_p", "remove"), ("ffn1_n", "remove"),
        ("att2_o_p", "linear"), ("att2_o_p", "remove"), ("ffn2_2_p", "linear"), ("ffn2_2_p", "remove"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"settings": ()}, {"settings": ("remove", "remove")}, {"damping": 0.0}, {"calibration_samples": 0}],
)
def test_refuses_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RemoveBlocks(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
