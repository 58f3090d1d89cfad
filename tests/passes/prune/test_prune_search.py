"""prune-structures as the search drives it: damages by task, prices of built models, plans in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Damage
from adapass.facts import FactCache
from adapass.graph.tensors import tensor_bytes
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.search.damage import damages
from adapass.search.evaluations import offered, one_setting_a_site
from adapass.search.joint import JointProblem, Rates, plan_of
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.statics import StaticOption, priced
from adapass.search.structural import Layers, effect_of
from tests.passes.prune.nets import CONVS, Images, network
from tests.passes.prune.residual_nets import IMAGES, residual_net

BLOCKS = RemoveBlocks()
STEP = PruneStructures(multiple=2, samples=48, rows=16)


def _by_size(_: str, models: Mapping[str, ir.Model]) -> Mapping[str, float]:
    """A second a byte: what a cut model is worth without a clock."""
    return {name: float(tensor_bytes(model)) for name, model in models.items()}


def test_choices_are_measured_priced_and_planned_by_the_search() -> None:
    model, data = network(CONVS), Images(48)
    choices = one_setting_a_site(STEP, model)

    found = damages(model, STEP, choices, fit=data, samples=data)
    options = priced(model, STEP, choices, found, _by_size, fit=data)
    plan = apply_plan(model, Plan((Part(STEP, tuple(option.choice for option in options)),)), fit=data)

    assert [option.choice.site for option in options] == ["w1:0", "w3:0"]
    assert all(option.saving > 0.0 for option in options)
    assert all(0.0 < option.damage.distortion < 1.0 for option in options)
    saved = tensor_bytes(model) - tensor_bytes(plan)
    assert sum(option.saving for option in options) == saved


def _option(model: ir.Model, step: BudgetedPass, site: str, setting: str) -> StaticOption:
    choice = next(c for c in offered(step, model) if (c.site, c.setting) == (site, setting))
    effect = effect_of(model, Layers.of(model), step, choice, IMAGES, FactCache(model))
    return StaticOption(step, choice, 1.0, Damage(0.1), 0.0, 0, effect)


def test_a_block_that_goes_is_not_narrowed_as_well() -> None:
    model = residual_net()
    gone = _option(model, BLOCKS, "f2", "remove")
    replaced = _option(model, BLOCKS, "f2", "convolve")
    inside, beside = _option(model, STEP, "w2:0", "keep-4"), _option(model, STEP, "w1:0", "keep-4")
    problem = JointProblem((gone, replaced, inside, beside), (), Rates(1.0), classes=True)

    assert not problem.allows([gone, inside])
    assert not problem.allows([replaced, inside])
    assert problem.allows([gone, beside])
    assert problem.allows([replaced, beside])


@pytest.mark.parametrize("setting", ["remove", "convolve"])
def test_one_plan_cuts_blocks_and_channels_and_takes_8_bits_behind_exits(setting: str) -> None:
    model, exits, bits = residual_net(), InsertExits(), Quantize8bit(min_conv_elements=1)
    cut = [_option(model, BLOCKS, "f2", setting), _option(model, STEP, "w1:0", "keep-4")]
    eight = [c for c in offered(bits, model) if c.site in ("f1", "a3")]
    first = next(c for c in offered(exits, model) if c.site == "r2")
    parts = plan_of(cut, Part(exits, (first,))).parts

    found = apply_plan(model, Plan((*parts, Part(bits, tuple(eight)))), fit=IMAGES, check=[IMAGES.feeds(0)])

    assert [part.step.name for part in parts] == ["insert-exits", "remove-blocks", "prune-structures"]
    assert len(eight) == 2
    weights = [value.const_value for value in found.graph.initializers.values()]
    shapes = [(tuple(t.shape), t.dtype) for t in weights if t is not None]
    assert ((4, 6, 3, 3), ir.DataType.FLOAT) in shapes
    assert ((6, 4, 3, 3), ir.DataType.INT8) in shapes
    assert "w2" not in found.graph.initializers
