"""prune-structures as the search drives it: damages by task, prices of built models, plans in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from adapass.graph.tensors import tensor_bytes
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.search.damage import damages
from adapass.search.evaluations import one_setting_a_site
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.statics import priced
from tests.passes.prune.nets import CONVS, Images, network

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
