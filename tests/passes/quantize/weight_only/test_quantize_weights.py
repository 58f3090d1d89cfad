"""quantize-weights as a budgeted pass: propose, apply, fit, check, damages."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Feeds
from adapass.defaults import CLEAN
from adapass.errors import RecipeError, UsageError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.edit import constant_array
from adapass.graph.load import load_model
from adapass.graph.packed import pack_model, unpack_model
from adapass.graph.save import save_model
from adapass.graph.text import clone, parse
from adapass.passes.quantize.weight_only.layout import FORMAT
from adapass.passes.quantize.weight_only.quantize_weights import QuantizeWeights
from adapass.passes.quantize.weight_only.rounding import Rounding
from adapass.pipeline import Pipeline
from adapass.text_form import parse_pass
from tests.passes.quantize.conftest import HEADER
from tests.passes.rows import Rows, literal, weight

FORMATS = ("int8", "int8-g16", "int4-g16", "int4-g128", "int2-g16", "int4-g16-rank2", "float16", "bfloat16")
CODES = ("binary-2", "binary-3")


def step(*settings: str, **options: object) -> QuantizeWeights:
    return QuantizeWeights(settings=settings or ("int4-g16",), min_elements=1, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def stored(
    family: QuantizeWeights, model: ir.Model, data: Rows | None = None, *, only: str | None = None
) -> ir.Model:
    """The model with every site in the first setting it takes."""
    after = clone(model)
    facts = FactCache(after)
    first = {c.site: c for c in reversed(family.propose(after, facts).choices) if only in (None, c.site)}
    family.apply(after, facts, tuple(first.values()))
    family.fit(after, data)
    return after


def outputs(model: ir.Model, feeds: Feeds, *, optimize: bool = False) -> npt.NDArray[np.float64]:
    return np.asarray(next(iter(Session(model, optimize=optimize).run(feeds).values())), np.float64)


def moved(before: ir.Model, after: ir.Model, feeds: Feeds, *, optimize: bool = False) -> float:
    a, b = outputs(before, feeds), outputs(after, feeds, optimize=optimize)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.fixture
def related() -> Rows:
    """Inputs that mostly say the same."""
    rng = np.random.default_rng(7)
    mixed = rng.normal(size=(96, 5, 3)) @ rng.normal(size=(3, 16)) + 0.1 * rng.normal(size=(96, 5, 16))
    return Rows({"x": mixed.astype(np.float32)})


def test_proposes_every_product_in_every_format(mlp: ir.Model) -> None:
    choices = step("int4-g32", "int8").propose(mlp, FactCache(mlp)).choices

    assert [(c.site, c.setting) for c in choices] == [
        ("p1", "int4-g32"), ("p1", "int8"), ("p2", "int4-g32"), ("p2", "int8"),
    ]  # fmt: skip
    assert choices[0].detail["bits_per_weight"] == pytest.approx(4 + 36 / 16)
    assert choices[0].detail["faster_on"] == ["onnxruntime", "openvino"]
    assert choices[0].batch_invariant


def test_a_site_belongs_to_one_family(mlp: ir.Model) -> None:
    choice = step().propose(mlp, FactCache(mlp)).choices[0]

    assert choice.excludes == {("quantize-8bit", "p1"), ("factorize", "p1"), ("sparsify", "p1")}


def test_a_convolution_is_only_ever_smaller(residual_net: ir.Model) -> None:
    found = step("int4-g32-rank2", "int4-g32").propose(residual_net, FactCache(residual_net)).choices

    assert {c.setting for c in found if c.site == "c2"} == {"int4-g32"}
    assert all(c.detail["faster_on"] == [] for c in found if c.detail["operator"] == "Conv")
    assert {c.setting for c in found if c.site == "logits"} == {"int4-g32-rank2", "int4-g32"}


TWO = f"""
{HEADER}
two (float[N, 8] x) => (float[N, 8] y, float[N, 8] z, float[N, N] d)
<float[8, 8] w = {literal(weight(1, 8, 8))}>
{{
    y = MatMul(x, w)
    z = MatMul(y, w)
    t = Transpose(x)
    d = MatMul(x, t)
}}
"""
ONE = f"""
{HEADER}
one (float[N, 8] x) => (float[N, 8] y)
<float[8, 8] w = {literal(weight(1, 8, 8))}>
{{
    y = MatMul(x, w)
}}
"""
GROUPED = f"""
{HEADER}
grouped (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y)
<float[4, 1, 3, 3] w = {literal(weight(1, 4, 1, 3, 3))}>
{{
    y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)
}}
"""


@pytest.mark.parametrize(
    ("text", "family", "reason"),
    [
        pytest.param(TWO, step(), "another product reads the same weight", id="shared"),
        pytest.param(ONE, QuantizeWeights(), "the weight is too small", id="too-small"),
        pytest.param(ONE, step(skip_sites=("y",)), "listed in skip_sites", id="skipped"),
        pytest.param(GROUPED, step(), "its weight is not stored as a matrix", id="grouped"),
        pytest.param(
            ONE.replace(" : 20", " : 12"), step(), "the opset cannot be raised because of opset 12", id="old"
        ),
    ],
)
def test_refuses_and_says_why(text: str, family: QuantizeWeights, reason: str) -> None:
    model = parse(text)

    proposal = family.propose(model, FactCache(model))

    assert not proposal.choices
    assert all(refusal.reason.startswith(reason) for refusal in proposal.refusals)
    assert proposal.refusals


def _with_weight(array: Array) -> ir.Model:
    model = parse(ONE)
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    return model


def test_refuses_numbers_that_are_not_finite() -> None:
    model = _with_weight(np.full((8, 8), np.inf, np.float32))

    assert step().propose(model, FactCache(model)).refusals[0].reason.endswith("not finite")


def test_refuses_other_precisions() -> None:
    model = parse(ONE.replace("float[", "double["))

    assert (
        step().propose(model, FactCache(model)).refusals[0].reason == "the weight is not in single precision"
    )


@pytest.mark.parametrize("format_", [*FORMATS, *CODES])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])
def test_products_keep_their_numbers(mlp: ir.Model, rows: Rows, format_: str, symmetric: bool) -> None:
    family = step(format_, symmetric=symmetric)
    after = stored(family, mlp, rows)
    feeds = rows.batch(range(8))

    limit = {"int8": 0.02, "floa": 0.001, "bflo": 0.01, "int4": 0.2, "int2": 0.7, "bina": 0.6}[format_[:4]]
    assert 0.0 < moved(mlp, after, feeds) < limit
    assert moved(mlp, after, feeds, optimize=True) < limit + 0.01
    family.check(mlp, after, [])


@pytest.mark.parametrize("format_", [*FORMATS, *CODES])
def test_convolutions_and_gemm_keep_their_numbers(residual_net: ir.Model, images: Rows, format_: str) -> None:
    family = step(*dict.fromkeys((format_, "int8")))
    after = stored(family, residual_net, images)
    feeds = images.batch(range(8))

    limit = {"int8": 0.02, "floa": 0.001, "bflo": 0.01, "int4": 0.2, "int2": 0.7, "bina": 0.7}[format_[:4]]
    assert 0.0 < moved(residual_net, after, feeds) < limit
    family.check(residual_net, after, [])


@pytest.mark.parametrize("format_", [*FORMATS, *CODES])
def test_what_is_stored_is_small(format_: str) -> None:
    """By the sizes of the tensors in the model, not by its own account."""
    text = ONE.replace("float[8, 8] w = " + literal(weight(1, 8, 8)), "float[64, 64] w = " + literal(
        weight(2, 64, 64)
    )).replace("[N, 8]", "[N, 64]")  # fmt: skip
    model = parse(text)
    family = step(format_)
    expected = float(str(family.propose(model, FactCache(model)).choices[0].detail["bits_per_weight"]))

    after = stored(family, model)

    tensors = [v.const_value for v in after.graph.initializers.values() if v.const_value is not None]
    bits = 8 * sum(tensor.nbytes for tensor in tensors) / 64**2
    assert bits == pytest.approx(expected, abs=0.6)  # the shapes of a restored binary weight come on top


def test_survives_being_saved_and_sent(mlp: ir.Model, rows: Rows, tmp_path: Path) -> None:
    after = stored(step("int4-g16", "int2-g16"), mlp, rows)
    feeds = rows.batch([0, 1])
    file = tmp_path / "model.onnx"
    save_model(after, file)

    np.testing.assert_array_equal(outputs(load_model(file), feeds), outputs(after, feeds))
    np.testing.assert_array_equal(outputs(unpack_model(pack_model(after)), feeds), outputs(after, feeds))


@pytest.mark.parametrize("format_", ["float16", "binary-2", "int4-g16"])
def test_cleaning_up_does_not_restore_it(mlp: ir.Model, format_: str) -> None:
    after = stored(step(format_), mlp)
    operators = [node.op_type for node in after.graph]

    clean = Pipeline(parse_pass(name) for name in CLEAN).run(after).model

    assert [node.op_type for node in clean.graph] == operators
    assert sum(v.const_value.nbytes for v in clean.graph.initializers.values() if v.const_value) <= sum(
        v.const_value.nbytes for v in after.graph.initializers.values() if v.const_value
    )


def test_data_makes_rounding_better_and_leaves_the_original_alone(mlp: ir.Model, related: Rows) -> None:
    text = str(mlp.graph)
    feeds = Rows({"x": related.arrays["x"][48:]}).batch(range(48))
    some = Rows({"x": related.arrays["x"][:48]})

    nearest = moved(mlp, stored(step("int4-g16", rounding=Rounding.NEAREST), mlp, some), feeds)
    second = moved(mlp, stored(step("int4-g16"), mlp, some), feeds)

    assert second < 0.8 * nearest
    assert str(mlp.graph) == text


def test_the_same_data_gives_the_same_model(mlp: ir.Model, related: Rows) -> None:
    assert pack_model(stored(step(), mlp, related)) == pack_model(stored(step(), mlp, related))


def test_products_notice_how_they_were_rounded(
    mlp: ir.Model, related: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    def noted(model: ir.Model) -> set[str]:
        return {node.metadata_props[FORMAT] for node in model.graph if FORMAT in node.metadata_props}

    assert noted(stored(step(), mlp, related)) == {"int4-g16 second-order"}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert noted(stored(step(), mlp)) == {"int4-g16 nearest"}
    assert "rounded to the nearest value: second-order rounding needs data" in caplog.text


def test_later_products_see_what_the_first_became(mlp: ir.Model, related: Rows) -> None:
    """Only the second product is stored: then it reads float inputs, and is rounded otherwise."""
    both = stored(step("int2-g16"), mlp, related)
    alone = stored(step("int2-g16"), mlp, related, only="p2")

    arrays = [constant_array(model.graph.initializers["p2_stored_weight"]) for model in (both, alone)]
    assert not np.array_equal(*arrays)  # type: ignore[arg-type]


def test_follows_the_float_model_when_asked(mlp: ir.Model, related: Rows) -> None:
    feeds = related.batch(range(96))

    plain = moved(mlp, stored(step("int2-g16"), mlp, related), feeds)
    following = moved(mlp, stored(step("int2-g16", follow_float=True), mlp, related), feeds)

    assert following < plain


def test_a_rank_for_all_formats(mlp: ir.Model, related: Rows) -> None:
    after = stored(step("int4-g16", correction_rank=2), mlp, related)

    assert [n.op_type for n in after.graph if n.op_type != "DequantizeLinear"] == [
        "MatMul", "MatMul", "MatMul", "Add", "Add", "Gelu", "MatMul", "MatMul", "MatMul", "Add", "Add",
    ]  # fmt: skip
    step("int4-g16", correction_rank=2).check(mlp, after, [])


def test_a_branch_is_fitted_to_data_even_beside_the_nearest_values(mlp: ir.Model, related: Rows) -> None:
    feeds = related.batch(range(96))
    family = step("int2-g16", correction_rank=2, rounding=Rounding.NEAREST)

    assert moved(mlp, stored(family, mlp, related), feeds) < 0.8 * moved(mlp, stored(family, mlp), feeds)


def test_damage_of_each_choice_is_that_of_the_choice_alone(mlp: ir.Model, related: Rows) -> None:
    family = step("int2-g16", "int8", rounding=Rounding.NEAREST)
    choices = family.propose(mlp, FactCache(mlp)).choices
    odd = related.batch(range(1, 96, 2))

    found = family.damages(mlp, FactCache(mlp), choices, related)

    assert set(found) == {choice.key for choice in choices}
    for choice in choices:
        after = clone(mlp)
        family.apply(after, FactCache(after), [choice])
        assert found[choice.key].distortion == pytest.approx(moved(mlp, after, odd), rel=1e-3)


def test_damage_is_judged_on_samples_that_rounding_did_not_see(mlp: ir.Model, related: Rows) -> None:
    family = step("int4-g16", calibration_samples=256)
    choice = family.propose(mlp, FactCache(mlp)).choices[0]
    even = Rows({"x": related.arrays["x"][::2]})
    odd = related.batch(range(1, 96, 2))

    found = family.damages(mlp, FactCache(mlp), [choice], related)[choice.key]

    after = clone(mlp)
    family.apply(after, FactCache(after), [choice])
    family.fit(after, even)
    assert found.distortion == pytest.approx(moved(mlp, after, odd), rel=1e-3)


def test_damage_of_learned_rounding_is_sketched_without_torch(
    mlp: ir.Model, related: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    learned, second = (step(rounding=each) for each in (Rounding.LEARNED, Rounding.SECOND_ORDER))
    choices = learned.propose(mlp, FactCache(mlp)).choices

    assert learned.sketch == second
    assert second.sketch is second
    found = [family.damages(mlp, FactCache(mlp), choices, related) for family in (learned, second)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        pytest.param([("nowhere", "int4-g16")], "no choice quantize-weights:nowhere=int4-g16", id="site"),
        pytest.param([("p1", "int8")], "no choice quantize-weights:p1=int8", id="setting"),
        pytest.param([("p1", "int4-g16")] * 2, "'p1' is chosen twice", id="twice"),
    ],
)
def test_refuses_choices_before_changing_anything(
    mlp: ir.Model, choices: list[tuple[str, str]], message: str
) -> None:
    text = str(mlp.graph)

    with pytest.raises(UsageError, match=message):
        step().apply(mlp, FactCache(mlp), [Choice("quantize-weights", *each) for each in choices])

    assert str(mlp.graph) == text


@pytest.mark.parametrize(
    "options",
    [
        "settings=[]",
        'settings=["int8", "int8"]',
        'settings=["int5"]',
        "damping=0.0",
        "correction-rank=-1",
        "calibration-samples=0",
        "calibration-rows=0",
        "rounding=random",
    ],
)
def test_refuses_senseless_options(options: str) -> None:
    with pytest.raises(RecipeError, match="quantize-weights"):
        parse_pass(f"quantize-weights{{{options}}}")


def four_times(array: Array) -> Array:
    return np.multiply(array, 4)


def _spoil(model: ir.Model, name: str, change: Callable[[Array], Array]) -> ir.Model:
    array = constant_array(model.graph.initializers[name])
    assert array is not None
    model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(change(array)), name=name)
    return model


@pytest.mark.parametrize(
    ("format_", "part", "change", "message"),
    [
        pytest.param("int8", "weight", np.negative, "'p1' is off by 2", id="sign"),
        pytest.param("int4-g16", "weight", np.flipud, "'p1' is off by", id="order"),
        pytest.param("int4-g16", "scale", four_times, "'p1' is off by", id="scale"),
        pytest.param("float16", "weight", np.fliplr, "'p1' is off by", id="half"),
        pytest.param("int4-g16-rank2", "left", np.negative, "points away", id="branch"),
    ],
)
def test_check_finds_wrong_weights(
    mlp: ir.Model, rows: Rows, format_: str, part: str, change: Callable[[Array], Array], message: str
) -> None:
    family = step(format_, symmetric=True)
    after = _spoil(stored(family, mlp, rows), f"p1_stored_{part}", change)

    with pytest.raises(VerificationError, match=message):
        family.check(mlp, after, [])


def test_check_finds_a_change_elsewhere(mlp: ir.Model, rows: Rows) -> None:
    after = _spoil(stored(step(), mlp, rows), "b1", np.negative)

    with pytest.raises(VerificationError, match="'b1' changed"):
        step().check(mlp, after, [])


def test_check_finds_a_lost_product(mlp: ir.Model, rows: Rows) -> None:
    after = stored(step("int4-g16-rank2"), mlp, rows)
    total = next(node for node in after.graph if node.outputs[0].name == "p1")
    total.outputs[0].name = "other"

    with pytest.raises(VerificationError, match="'p1' is lost"):
        step("int4-g16-rank2").check(mlp, after, [])
