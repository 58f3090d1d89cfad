"""Plans measured without being built: as those that are built, with exchanges, on samples of their own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice, Feeds
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.passes.quantize.weight_only.damage import BATCH
from adapass.passes.quantize.weight_only.quantize_weights import QuantizeWeights
from adapass.passes.quantize.weight_only.rounding import Rounding
from tests.passes.rows import Rows

COUNT = 4 * BATCH
"""Half of them are judged on: one batch for plans, one for exchanges."""


@pytest.fixture
def rows() -> Rows:
    return Rows({"x": np.random.default_rng(3).normal(size=(COUNT, 5, 16)).astype(np.float32)})


def family(rounding: Rounding = Rounding.NEAREST) -> QuantizeWeights:
    return QuantizeWeights(settings=("int2-g16", "int8"), min_elements=1, rounding=rounding)


def chosen(model: ir.Model, *keys: str) -> list[Choice]:
    found = {choice.key: choice for choice in family().propose(model, FactCache(model)).choices}
    return [found[f"quantize-weights:{key}"] for key in keys]


def moved(model: ir.Model, choices: list[Choice], feeds: Feeds) -> float:
    after = clone(model)
    family().apply(after, FactCache(after), choices)
    a, b = (next(iter(Session(each).run(feeds).values())).astype(np.float64) for each in (model, after))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def halves(rows: Rows) -> tuple[Feeds, Feeds]:
    """What plans and what exchanges are judged on."""
    odd = range(1, COUNT, 2)
    return rows.batch(odd[:BATCH]), rows.batch(odd[BATCH:])


def test_a_plan_is_measured_as_it_would_be_built(mlp: ir.Model, rows: Rows) -> None:
    choices = family().propose(mlp, FactCache(mlp)).choices
    together = family().together(mlp, FactCache(mlp), choices, rows)
    plan = chosen(mlp, "p1=int2-g16", "p2=int8")

    assert together.damage(plan).distortion == pytest.approx(moved(mlp, plan, halves(rows)[0]), rel=1e-3)
    assert together.damage([]).distortion == 0.0


def test_an_exchange_is_measured_beside_the_rest_of_the_plan(mlp: ir.Model, rows: Rows) -> None:
    choices = family().propose(mlp, FactCache(mlp)).choices
    together = family().together(mlp, FactCache(mlp), choices, rows)
    plan = chosen(mlp, "p1=int2-g16", "p2=int2-g16")
    (finer,) = chosen(mlp, "p2=int8")
    probes = halves(rows)[1]

    found = together.beside(plan, [("p2", plan[1]), ("p2", finer), ("p1", None), ("p2", None)])

    built = [plan, [plan[0], finer], plan[1:], plan[:1]]
    assert [each.distortion for each in found] == pytest.approx(
        [moved(mlp, each, probes) for each in built], rel=1e-3
    )


def test_weights_are_rounded_by_data(mlp: ir.Model) -> None:
    rng = np.random.default_rng(7)
    mixed = rng.normal(size=(96, 5, 3)) @ rng.normal(size=(3, 16)) + 0.1 * rng.normal(size=(96, 5, 16))
    related = Rows({"x": mixed.astype(np.float32)})
    choices = family().propose(mlp, FactCache(mlp)).choices
    plan = chosen(mlp, "p1=int2-g16", "p2=int2-g16")

    seen, blind = (
        family(rounding).together(mlp, FactCache(mlp), choices, related).damage(plan).distortion
        for rounding in (Rounding.SECOND_ORDER, Rounding.NEAREST)
    )

    assert seen < 0.8 * blind


def test_refuses_choices_the_model_does_not_have(mlp: ir.Model, rows: Rows) -> None:
    with pytest.raises(UsageError, match="no choice quantize-weights:nowhere=int8"):
        family().together(mlp, FactCache(mlp), [Choice("quantize-weights", "nowhere", "int8")], rows)
