"""Damage of single sites, measured with switches in one session."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice, Samples
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.sensitivity import sensitivity
from adapass.passes.quantize.sites import Setting

STEP = Quantize8bit(min_matmul_elements=64, min_conv_elements=64)


def measured_alone(model: ir.Model, samples: Samples, site: str, setting: Setting) -> float:
    """The same by applying and fitting one choice."""
    copy = model.clone()
    STEP.apply(copy, FactCache(copy), [Choice(family=STEP.name, site=site, setting=setting)])
    STEP.fit(copy, samples)
    feeds, name = samples.batch(range(16)), model.graph.outputs[0].name or ""
    a, b = (Session(m).run(feeds)[name].astype(np.float64) for m in (model, copy))
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2)))


@pytest.mark.parametrize("setting", list(Setting))
def test_agrees_with_applying_one_site(mlp: ir.Model, rows: Samples, setting: Setting) -> None:
    found = sensitivity(mlp, FactCache(mlp), rows, options=STEP, setting=setting, count=16)

    assert list(found) == ["p1", "p2"]
    for site, result in found.items():
        alone = measured_alone(mlp, rows, site, setting)
        assert result.distortion == pytest.approx(alone, rel=0.3)
        assert result.divergence is None


def test_convolutions_count_their_result_too(residual_net: ir.Model, images: Samples) -> None:
    found = sensitivity(residual_net, FactCache(residual_net), images, options=STEP, count=16)

    assert list(found) == ["c1", "c2", "c3", "logits"]
    assert all(0.0 < result.distortion < 0.05 for result in found.values())
    assert all(result.divergence is not None and 0.0 < result.divergence < 0.1 for result in found.values())
    alone = measured_alone(residual_net, images, "c2", Setting.STATIC)
    assert found["c2"].distortion == pytest.approx(alone, rel=0.5)


def test_groups_are_measured_together(residual_net: ir.Model, images: Samples) -> None:
    groups = {"all": ("c1", "c2", "c3", "logits"), "nothing": (), "last": ("logits",)}

    found = sensitivity(residual_net, FactCache(residual_net), images, groups, options=STEP, count=8)

    assert found["nothing"].distortion == 0.0
    assert found["all"].distortion > found["last"].distortion > 0.0


def test_does_not_change_the_model(mlp: ir.Model, rows: Samples) -> None:
    before = [node.op_type for node in mlp.graph]

    sensitivity(mlp, FactCache(mlp), rows, options=STEP, count=4)

    assert [node.op_type for node in mlp.graph] == before
    assert [value.name for value in mlp.graph.inputs] == ["x"]


def test_refuses_unknown_sites(mlp: ir.Model, rows: Samples) -> None:
    with pytest.raises(UsageError, match="no sites \\['q'\\]"):
        sensitivity(mlp, FactCache(mlp), rows, {"g": ("p1", "q")}, options=STEP)


def test_the_family_reports_damage_by_choice(mlp: ir.Model, rows: Samples) -> None:
    choices = STEP.propose(mlp, FactCache(mlp)).choices

    found = STEP.damages(mlp, FactCache(mlp), choices, rows)

    assert sorted(found) == sorted(choice.key for choice in choices)
    assert all(damage.distortion > 0.0 for damage in found.values())
