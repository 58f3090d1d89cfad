"""Models that one scale a tensor breaks keep their quality through quantize-8bit as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import RecipeError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.save import to_bytes
from adapass.graph.stand_ins import stand_ins
from adapass.passes.exits.heads import HeadKind
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.record import read_record
from adapass.passes.quantize.opened import rescaled_form
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.rescaling.migrate import Migrate
from adapass.passes.quantize.sites import Setting
from adapass.pipeline import Pipeline
from adapass.text_form import parse_pass
from tests.passes.quantize.rescaling.hard_models import images, uneven_blocks, uneven_mlp, vectors
from tests.passes.rows import Rows

DEFAULT = Quantize8bit(min_matmul_elements=64, min_conv_elements=64)
NAIVE = replace(DEFAULT, per_channel=False, ranges=RangeMethod.MIN_MAX, migrate=Migrate.NEVER)
HARD = [
    pytest.param(uneven_mlp, vectors, id="one-channel-100-times-the-others"),
    pytest.param(uneven_blocks, images, id="depthwise-convolutions"),
]


def quantized(step: Quantize8bit, model: ir.Model, data: Rows) -> ir.Model:
    copy = model.clone()
    assert step.run(copy, FactCache(copy)).changed
    step.fit(copy, data)
    check_structure(copy)
    return copy


def agreement(model: ir.Model, result: ir.Model, data: Rows) -> float:
    """Share of samples with the same class."""
    a, b = (Session(each).run(data.arrays)["logits"] for each in (model, result))
    return float(np.count_nonzero(a.argmax(axis=1) == b.argmax(axis=1))) / len(data)


@pytest.mark.parametrize(("build", "make"), HARD)
def test_the_default_keeps_what_one_scale_a_tensor_loses(
    build: Callable[[], ir.Model], make: Callable[[int], Rows]
) -> None:
    model = build()
    naive, default = (quantized(step, model, make(1)) for step in (NAIVE, DEFAULT))

    assert agreement(model, naive, make(2)) < 0.85
    assert agreement(model, default, make(2)) > 0.95
    DEFAULT.check(model, default, [make(2).batch(range(8))])


@pytest.mark.parametrize(("build", "make"), HARD)
@pytest.mark.parametrize("missing", ["migration", "scales a channel"])
def test_the_default_needs_both_of_its_parts(
    build: Callable[[], ir.Model], make: Callable[[int], Rows], missing: str
) -> None:
    step = (
        replace(DEFAULT, migrate=Migrate.NEVER)
        if missing == "migration"
        else replace(DEFAULT, per_channel=False)
    )
    model = build()
    part, whole = (quantized(each, model, make(1)) for each in (step, DEFAULT))

    assert agreement(model, part, make(2)) < agreement(model, whole, make(2))


@pytest.mark.parametrize(("build", "make"), HARD)
def test_one_scale_a_tensor_does_with_equalized_channels(
    build: Callable[[], ir.Model], make: Callable[[int], Rows]
) -> None:
    """Cross-layer equalization alone, from weights, for kernels that know one scale only."""
    step = replace(DEFAULT, per_channel=False, migrate=Migrate.NEVER)
    model = build()
    plain, equal = (quantized(replace(step, equalize=each), model, make(1)) for each in (False, True))

    assert agreement(model, equal, make(2)) > agreement(model, plain, make(2)) + 0.1


def test_migration_asked_for_helps_at_every_alpha_between() -> None:
    model = uneven_mlp()
    found = {
        alpha: agreement(
            model,
            quantized(replace(DEFAULT, migrate=Migrate.ALWAYS, alpha=alpha), model, vectors(1)),
            vectors(2),
        )
        for alpha in (0.0, 0.5, 0.8)
    }

    assert found[0.0] < found[0.5] <= 1.0
    assert found[0.0] < found[0.8] <= 1.0


def test_dynamic_scales_profit_as_well_when_there_is_data() -> None:
    model = uneven_mlp()
    step = replace(DEFAULT, settings=(Setting.DYNAMIC,))
    without = quantized(replace(step, migrate=Migrate.NEVER), model, vectors(1))
    found = quantized(step, model, vectors(1))

    assert agreement(model, found, vectors(2)) > agreement(model, without, vectors(2)) + 0.1


def test_an_ordinary_model_is_left_alone() -> None:
    model = uneven_mlp(factor=1.0)
    never = quantized(replace(DEFAULT, migrate=Migrate.NEVER), model, vectors(1))

    assert to_bytes(quantized(DEFAULT, model, vectors(1))) == to_bytes(never)


def test_what_changed_has_another_name_and_stands_in_for_the_old_one() -> None:
    model = uneven_mlp()

    result = quantized(DEFAULT, model, vectors(1))

    names = {value.name for node in result.graph for value in node.outputs}
    assert "n" not in names
    assert "h1" not in names
    assert stand_ins(result)["n"] == "n_rescaled"
    assert {"h2", "logits"} <= names


def test_the_check_sees_a_rescaled_weight_that_is_wrong() -> None:
    """Against the rescaled float model, which in turn is compared with what was there before."""
    model = uneven_mlp()
    result = quantized(DEFAULT, model, vectors(1))
    exact = rescaled_form(result)
    assert exact is not None
    slot = next(node for node in exact.graph if node.op_type == "LayerNormalization")
    scale = slot.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    scale.const_value = ir.tensor(scale.const_value.numpy() * 1.01, name=scale.name)

    with pytest.raises(VerificationError, match="rescaling channels moved output 'logits'"):
        DEFAULT.check(model, result, [vectors(2).feeds(0)])


def test_damages_are_measured_with_the_outliers_moved() -> None:
    model = uneven_mlp()
    choices = [c for c in DEFAULT.propose(model, FactCache(model)).choices if c.setting == "static"]
    never = replace(DEFAULT, migrate=Migrate.NEVER)

    with_, without = (step.damages(model, FactCache(model), choices, vectors(1)) for step in (DEFAULT, never))

    assert with_["quantize-8bit:p1=static"].distortion < 0.3 * without["quantize-8bit:p1=static"].distortion


@pytest.mark.parametrize(
    "text", ["quantize-8bit{migrate=never equalize=true}", "quantize-8bit{migrate=always alpha=0.7}"]
)
def test_options_round_trip_as_text(text: str) -> None:
    assert parse_pass(str(parse_pass(text))) == parse_pass(text)


def test_refuses_an_alpha_that_makes_no_sense() -> None:
    with pytest.raises(RecipeError, match="alpha"):
        parse_pass("quantize-8bit{alpha=1.5}")


def test_heads_of_exits_that_read_rescaled_channels_are_rescaled_with_them() -> None:
    """Exits are fitted on the float model before; the search finds their cuts by the names they had."""
    model = uneven_mlp()

    result = Pipeline([InsertExits(head=HeadKind.LINEAR), DEFAULT]).run(model, data=vectors(1)).model

    names = {value.name for node in result.graph for value in node.outputs}
    cuts = read_record(result).cuts
    assert "n" in cuts
    assert "n" not in names
    assert {stand_ins(result).get(cut, cut) for cut in cuts} <= names
    assert agreement(model, result, vectors(2)) > 0.95
