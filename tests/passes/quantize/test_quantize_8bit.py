"""quantize-8bit as a budgeted pass: propose, apply, fit, and what the numbers do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Feeds, Samples
from adapass.errors import AdapassError, DataError, ModelError, RecipeError, UsageError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.save import to_bytes
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.sites import Setting
from adapass.testing.faults import Fault, corrupt
from adapass.text_form import parse_pass
from adapass.verification import compare

SMALL = Quantize8bit(min_matmul_elements=64, min_conv_elements=64, calibration_samples=32)
SMALL_DYNAMIC = Quantize8bit(min_matmul_elements=64, settings=(Setting.DYNAMIC,))


def quantized(step: Quantize8bit, model: ir.Model, data: Samples | None) -> ir.Model:
    copy = model.clone()
    assert step.run(copy, FactCache(copy)).changed
    step.fit(copy, data)
    check_structure(copy)
    return copy


def choice(site: str, setting: str) -> Choice:
    return Choice(family="quantize-8bit", site=site, setting=setting)


def test_proposes_settings_in_the_preferred_order(mlp: ir.Model) -> None:
    proposal = SMALL.propose(mlp, FactCache(mlp))

    keys = [(c.site, c.setting, c.batch_invariant) for c in proposal.choices]
    assert keys == [
        ("p1", "static", True),
        ("p1", "dynamic", False),
        ("p2", "static", True),
        ("p2", "dynamic", False),
    ]
    assert proposal.choices[0].detail == {"operator": "MatMul", "weight_shape": [16, 24]}


def test_convolutions_are_static_only(residual_net: ir.Model) -> None:
    choices = SMALL.propose(residual_net, FactCache(residual_net)).choices

    assert [c.setting for c in choices] == ["static"] * 4 + ["dynamic"]
    assert SMALL_DYNAMIC.propose(residual_net, FactCache(residual_net)).choices[0].site == "logits"


@pytest.mark.parametrize("ranges", list(RangeMethod))
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_stays_close_on_new_lengths_and_batches(
    mlp: ir.Model, rows: Samples, ranges: RangeMethod, per_channel: bool, symmetric: bool, reduce_range: bool
) -> None:
    step = Quantize8bit(
        min_matmul_elements=64,
        ranges=ranges,
        per_channel=per_channel,
        symmetric_weights=symmetric,
        reduce_range=reduce_range,
    )
    random = np.random.default_rng(5)
    feeds = [
        {"x": random.normal(size=(n, length, 16)).astype(np.float32)}
        for n, length in [(1, 1), (3, 7), (8, 2)]
    ]

    found = compare(mlp, quantized(step, mlp, rows), feeds=feeds).worst()

    assert 0.0 < found.relative_rms < 0.04


def test_convolutions_with_residuals_stay_close(residual_net: ir.Model, images: Samples) -> None:
    result = quantized(SMALL, residual_net, images)

    found = compare(residual_net, result, feeds=[images.feeds(0), images.batch(range(1, 8))]).worst()

    assert 0.0 < found.relative_rms < 0.04
    SMALL.check(residual_net, result, [images.batch(range(4))])


def test_dynamic_needs_no_data_and_stays_close(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(SMALL_DYNAMIC, mlp, None)

    assert compare(mlp, result, feeds=[rows.feeds(0), rows.batch(range(5))]).worst().relative_rms < 0.02
    SMALL_DYNAMIC.check(mlp, result, [rows.batch(range(4))])


@pytest.mark.parametrize("optimize", [False, True])
def test_static_results_do_not_depend_on_the_batch(mlp: ir.Model, rows: Samples, optimize: bool) -> None:
    session = Session(quantized(SMALL, mlp, rows), optimize=optimize)

    together = session.run(rows.batch(range(6)))["y"].astype(np.float64)
    alone = np.concatenate([session.run(rows.feeds(i))["y"].astype(np.float64) for i in range(6)])

    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_dynamic_results_depend_on_the_batch(
    mlp: ir.Model, make_samples: Callable[[Mapping[str, Array]], Samples]
) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
    x[1] *= 50
    samples = make_samples({"x": x})
    session = Session(quantized(SMALL_DYNAMIC, mlp, None))

    together = session.run(samples.batch([0, 1]))["y"].astype(np.float64)
    alone = session.run(samples.feeds(0))["y"].astype(np.float64)

    assert np.abs(together[:1] - alone).max() > 1e-3


def test_static_without_data_says_what_to_do(mlp: ir.Model) -> None:
    SMALL.run(mlp, FactCache(mlp))

    with pytest.raises(DataError, match=r"no data was given.*settings=\[\"dynamic\"\]"):
        SMALL.fit(mlp, None)


def test_no_samples_is_an_error(
    mlp: ir.Model, make_samples: Callable[[Mapping[str, Array]], Samples]
) -> None:
    SMALL.run(mlp, FactCache(mlp))

    with pytest.raises(DataError, match="no samples"):
        SMALL.fit(mlp, make_samples({"x": np.zeros((0, 2, 16), np.float32)}))


def test_fitting_again_changes_nothing(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(SMALL, mlp, rows)
    before = to_bytes(result)

    SMALL.fit(result, rows)
    SMALL.fit(result, None)

    assert to_bytes(result) == before


def test_the_same_run_twice_gives_the_same_bytes(residual_net: ir.Model, images: Samples) -> None:
    assert to_bytes(quantized(SMALL, residual_net, images)) == to_bytes(
        quantized(SMALL, residual_net, images)
    )


def test_a_second_run_finds_nothing_to_do(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(SMALL, mlp, rows)

    assert not SMALL.run(result, FactCache(result)).changed


def test_weights_are_stored_in_a_quarter_of_the_bytes(rows: Samples, mlp: ir.Model) -> None:
    def kinds(model: ir.Model) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for value in model.graph.initializers.values():
            if value.const_value is not None and value.const_value.size >= 64:
                sizes[value.const_value.dtype.name] = (
                    sizes.get(value.const_value.dtype.name, 0) + value.const_value.nbytes
                )
        return sizes

    assert kinds(mlp) == {"FLOAT": 4 * (16 * 24 + 24 * 8)}
    assert kinds(quantized(SMALL, mlp, rows)) == {"INT8": 16 * 24 + 24 * 8}


def test_only_the_chosen_sites_change_each_in_its_setting(mlp: ir.Model, rows: Samples) -> None:
    result = SMALL.apply(mlp, FactCache(mlp), [choice("p2", "dynamic"), choice("p1", "static")])
    SMALL.fit(mlp, rows)

    assert result.sites == ("p1", "p2")
    operators = [node.op_type for node in mlp.graph]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("MatMulInteger") == 1
    assert operators.count("MatMul") == 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        pytest.param(
            [choice("nowhere", "static")], "no choice quantize-8bit:nowhere=static", id="unknown-site"
        ),
        pytest.param([choice("p1", "int4")], "no choice quantize-8bit:p1=int4", id="unknown-setting"),
        pytest.param([choice("p1", "static"), choice("p1", "dynamic")], "'p1' is chosen twice", id="twice"),
    ],
)
def test_refuses_choices_before_changing_anything(mlp: ir.Model, choices: list[Choice], message: str) -> None:
    before = to_bytes(mlp)

    with pytest.raises(UsageError, match=message):
        SMALL.apply(mlp, FactCache(mlp), choices)

    assert to_bytes(mlp) == before


@pytest.mark.parametrize(
    "text",
    [
        "quantize-8bit",
        "quantize-8bit{per-channel=false reduce-range=true}",
        'quantize-8bit{settings=["dynamic"] ranges=percentile percentile=99.9 skip-sites=["a", "b"]}',
    ],
)
def test_options_round_trip_as_text(text: str) -> None:
    step = parse_pass(text)

    assert parse_pass(str(step)) == step
    assert isinstance(step, Quantize8bit)


@pytest.mark.parametrize(
    "options",
    [
        "settings=[]",
        'settings=["static", "static"]',
        "percentile=12.0",
        "calibration-samples=0",
        "ranges=max",
    ],
)
def test_refuses_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(RecipeError):
        parse_pass(f"quantize-8bit{{{options}}}")


@pytest.mark.parametrize("fault", list(Fault))
def test_every_corruption_is_caught(residual_net: ir.Model, images: Samples, fault: Fault) -> None:
    result = quantized(SMALL, residual_net, images)
    feeds = [images.feeds(0), images.batch(range(4))]
    tried = 0
    for pick in range(0, 30, 3):
        broken = result.clone()
        if (what := corrupt(broken, fault, pick)) is None:
            break
        assert _complaint(residual_net, broken, feeds) is not None, f"nobody noticed: {what}"
        tried += 1
    assert tried > 0


def _complaint(before: ir.Model, after: ir.Model, feeds: list[Feeds]) -> AdapassError | None:
    try:
        check_structure(after)
        SMALL.check(before, after, feeds)
    except (VerificationError, DataError, ModelError) as error:
        return error
    return None


def test_a_lost_bias_below_the_noise_is_caught(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(SMALL, mlp, rows)
    before = mlp.clone()
    bias = before.graph.initializers["b2"]
    bias.const_value = ir.tensor(np.full(8, 0.003, np.float32), name="b2")

    with pytest.raises(VerificationError, match="'y' is off by"):
        SMALL.check(before, result, [rows.feeds(0)])


def test_a_negative_scale_is_caught(mlp: ir.Model, rows: Samples) -> None:
    result = quantized(SMALL, mlp, rows)
    scale = result.graph.initializers["x_scale"]
    assert scale.const_value is not None
    scale.const_value = ir.tensor(-scale.const_value.numpy(), name="x_scale")

    with pytest.raises(VerificationError, match="not positive"):
        SMALL.check(mlp, result, [rows.feeds(0)])
