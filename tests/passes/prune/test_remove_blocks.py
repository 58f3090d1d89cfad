"""remove-blocks: residual branches go, and what stays is fitted to make up for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Feeds
from adapass.errors import DataError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.stand_ins import stand_ins
from adapass.graph.text import clone, parse
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_fit import Refit
from adapass.passes.prune.remove_blocks_rewrite import Setting
from adapass.passes.prune.remove_blocks_similarity import similarities
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from tests.passes.rows import Rows, literal, weight


def constant(name: str, array: npt.NDArray[np.floating]) -> str:
    return f"float[{', '.join(map(str, array.shape))}] {name} = {literal(array)}"


def residual_net() -> ir.Model:
    """A stem and four residual blocks of convolutions, the third with half the size and a padded shortcut."""
    constants = [constant("w0", weight(0, 6, 3, 3, 3, scale=0.3)), constant("b0", weight(1, 6))]
    body = ["c0 = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)", "r0 = Relu(c0)"]
    widths = [6, 6, 6, 9, 9]
    for i in range(1, 5):
        before, after = widths[i - 1], widths[i]
        stride = 1 if before == after else 2
        constants += [
            constant(f"w{i}", weight(10 * i, after, before, 3, 3, scale=0.2)),
            constant(f"b{i}", weight(10 * i + 1, after, scale=0.3)),
            constant(f"v{i}", weight(10 * i + 2, after, after, 3, 3, scale=0.1)),
            constant(f"d{i}", weight(10 * i + 3, after, scale=0.3)),
        ]
        source = f"r{i - 1}"
        if stride == 2:
            body += [f"cut = Slice({source}, starts, ends, axes, steps)", "padded = Pad(cut, pads)"]
            constants += [
                "int64[2] starts = {0, 0}, int64[2] ends = {100, 100}, int64[2] axes = {2, 3}",
                "int64[2] steps = {2, 2}, int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}",
            ]
        body += [
            f"a{i} = Conv<pads = [1, 1, 1, 1], strides = [{stride}, {stride}]>({source}, w{i}, b{i})",
            f"h{i} = Relu(a{i})",
            f"f{i} = Conv<pads = [1, 1, 1, 1]>(h{i}, v{i}, d{i})",
            f"s{i} = Add({'padded' if stride == 2 else source}, f{i})",
            f"r{i} = Relu(s{i})",
        ]
    constants += [constant("wy", weight(99, 9, 5)), "int64[2] last = {2, 3}"]
    body += ["m = ReduceMean<keepdims = 0>(r4, last)", "y = MatMul(m, wy)"]
    lines = "\n".join(body)
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, 3, 8, 8] x) => (float[N, 5] y) <{', '.join(constants)}> {{ {lines} }}"
    )


def bottleneck() -> ir.Model:
    """One block 8 -> 2 -> 2 -> 8."""
    constants = [
        constant("u", weight(3, 8, 8, 1, 1)),
        constant("w", weight(0, 2, 8, 1, 1)),
        constant("k", weight(1, 2, 2, 3, 3)),
        constant("v", weight(2, 8, 2, 1, 1)),
    ]
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) <{', '.join(constants)}> {{\n"
        "g = Conv(x, u)\nr = Relu(g)\na = Conv(r, w)\nb = Relu(a)\n"
        "c = Conv<pads = [1, 1, 1, 1]>(b, k)\nd = Relu(c)\ne = Conv(d, v)\n"
        "s = Add(r, e)\ny = Relu(s) }"
    )


def transformer(*, post_norm: bool) -> ir.Model:
    """Two layers of one-head attention and a feed-forward part on [N, T, 8], then the mean and a product."""
    constants: list[str] = []
    body: list[str] = []

    def normed(source: str, name: str) -> str:
        constants.append(constant(f"{name}_g", 1.0 + weight(len(constants), 8, scale=0.1)))
        constants.append(constant(f"{name}_b", weight(len(constants), 8, scale=0.1)))
        body.append(f"{name} = LayerNormalization({source}, {name}_g, {name}_b)")
        return name

    def product(source: str, name: str, shape: tuple[int, int], scale: float) -> str:
        constants.append(constant(f"{name}_w", weight(len(constants), *shape, scale=scale)))
        constants.append(constant(f"{name}_c", weight(len(constants), shape[1], scale=0.2)))
        body.extend([f"{name}_p = MatMul({source}, {name}_w)", f"{name} = Add({name}_p, {name}_c)"])
        return name

    stream = (
        normed(product("x", "embed", (8, 8), 0.5), "n0") if post_norm else product("x", "embed", (8, 8), 0.5)
    )
    for i in (1, 2):
        for part in ("att", "ffn"):
            source = stream if post_norm else normed(stream, f"{part}{i}_n")
            if part == "att":
                q, k, v = (product(source, f"{part}{i}_{role}", (8, 8), 0.4) for role in "qkv")
                body.append(f"att{i}_t = Transpose<perm = [0, 2, 1]>({k})")
                body.append(f"att{i}_s = MatMul({q}, att{i}_t)")
                body.append(f"att{i}_a = Softmax(att{i}_s)")
                body.append(f"att{i}_m = MatMul(att{i}_a, {v})")
                result = product(f"att{i}_m", f"att{i}_o", (8, 8), 0.3)
            else:
                hidden = product(source, f"ffn{i}_1", (8, 24), 0.5)
                body.append(f"ffn{i}_g = Gelu({hidden})")
                result = product(f"ffn{i}_g", f"ffn{i}_2", (24, 8), 0.15)
            body.append(f"{part}{i} = Add({stream}, {result})")
            stream = normed(f"{part}{i}", f"{part}{i}_n") if post_norm else f"{part}{i}"
    constants += [constant("wy", weight(99, 8, 5)), "int64[1] last = {1}"]
    body += [f"m = ReduceMean<keepdims = 0>({stream}, last)", "y = MatMul(m, wy)"]
    lines = "\n".join(body)
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, T, 8] x) => (float[N, 5] y) <{', '.join(constants)}> {{ {lines} }}"
    )


IMAGES = Rows({"x": weight(7, 80, 3, 8, 8)})
TOKENS = Rows({"x": weight(8, 120, 6, 8)})


def error(a: ir.Model, b: ir.Model, data: Rows) -> float:
    feeds = data.batch(range(len(data)))
    one, two = (Session(m).run(feeds)["y"].astype(np.float64) for m in (a, b))
    assert one.shape == two.shape
    return float(np.mean((one - two) ** 2) / np.mean(one**2))


def chosen(model: ir.Model, sites: Mapping[str, str], step: RemoveBlocks, data: Rows | None) -> ir.Model:
    copy = clone(model)
    choices = [Choice("remove-blocks", site, setting) for site, setting in sites.items()]
    assert step.apply(copy, FactCache(copy), choices).applied == len(sites)
    step.fit(copy, data)
    check_structure(copy)
    return copy


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


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


def test_single_choices_are_sketched() -> None:
    sketch = RemoveBlocks(damping=0.5).sketch

    assert sketch.calibration_samples < RemoveBlocks().calibration_samples
    assert sketch.reach < RemoveBlocks().reach
    assert sketch == replace(sketch, damping=0.5)
    assert sketch.sketch == sketch


def test_reach_ends_the_refitting() -> None:
    model = residual_net()
    near = chosen(model, {"f1": "remove"}, RemoveBlocks(reach=1), IMAGES)

    assert not np.array_equal(_numbers(near, "v2"), _numbers(model, "v2"))
    assert np.array_equal(_numbers(near, "v3"), _numbers(model, "v3"))


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
        name: np.array_equal(_numbers(model, name), _numbers(result, name))
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


def _numbers(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def test_fitting_twice_gives_the_same_bits() -> None:
    model = residual_net()
    first, second = (
        chosen(model, {"f2": "remove", "f4": "linear"}, RemoveBlocks(), IMAGES) for _ in range(2)
    )

    assert all(
        np.array_equal(_numbers(first, name), _numbers(second, name)) for name in first.graph.initializers
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
