"""Exits and 8 bits on models that leave tokens behind, in every lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from adapass.analyses.cut_points import CutPoints
from adapass.analyses.kept_tokens import KeptTokens
from adapass.budgeted import Array
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import run_stages
from adapass.ops import DOMAIN, EXIT_INDEX, EXIT_THRESHOLDS, read_exits
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from tests.passes.tokens.nets import LONGEST, Net, Texts
from tests.passes.tokens.reference import assert_close
from tests.passes.tokens.test_prune_tokens import pruned, samples

Run = Callable[[dict[str, Array]], dict[str, Array]]

BERT = Net()
VIT = Net(post_norm=False, masked=False, length=9)
PLANS: dict[str, dict[int, str]] = {
    "keep": {0: "keep-0.5", 1: "keep-0.7"},
    "merge": {0: "merge-0.6"},
    "mass": {0: "mass-0.8", 1: "mass-0.8"},
}


@cache
def with_exits(net: Net, plan: str) -> ir.Model:
    model = pruned(net, PLANS[plan])
    step = InsertExits(features="mean+class-token", min_saving=0.0)
    choices = step.propose(model, FactCache(model)).choices
    step.apply(model, FactCache(model), choices)
    step.fit(model, samples(net))
    return model


def runners(model: ir.Model) -> dict[str, Run]:
    stages = lower_to_stages(model)
    sessions = [Session(stage) for stage in stages.models]

    def staged(feeds: dict[str, Array]) -> dict[str, Array]:
        calls = [_call(session) for session in sessions]
        batch = len(next(iter(feeds.values())))
        return run_stages(stages.wiring, calls, feeds, batch).outputs

    return {
        "masked": Session(lower_to_masked(model)).run,
        "branches": Session(lower_to_if(model)).run,
        "stages": staged,
    }


def _call(session: Session) -> Callable[..., list[Array]]:
    def run(outputs: list[str], feeds: dict[str, Array]) -> list[Array]:
        found = session.run(feeds)
        return [found[name] for name in outputs]

    return run


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("net", [pytest.param(BERT, id="bert"), pytest.param(VIT, id="vit")])
def test_every_lowering_computes_the_same(net: Net, plan: str) -> None:
    model, data = with_exits(net, plan), samples(net)
    feeds = dict(data.batch(range(12)))
    whole = Session(model, outputs=[*_confidences(model)]).run(feeds)
    half = np.array([np.median(array.astype(np.float64)) for array in whole.values()], np.float32)
    ways = runners(model)

    for thresholds in (np.full_like(half, np.inf), half, np.full_like(half, -1.0)):
        given = {**feeds, EXIT_THRESHOLDS: thresholds}
        expected = Session(model).run(given)
        assert thresholds is not half or len(set(expected[EXIT_INDEX].tolist())) > 1
        for name, run in ways.items():
            found = run(given)
            np.testing.assert_array_equal(found[EXIT_INDEX], expected[EXIT_INDEX], err_msg=name)
            assert_close(found["y"], expected["y"], rtol=1e-4, atol=1e-5, what=name)


def _confidences(model: ir.Model) -> list[str]:
    return [found.confidence.name or "" for found in read_exits(model)]


@pytest.mark.parametrize("plan", list(PLANS))
def test_heads_of_exits_ignore_padding(plan: str) -> None:
    model = with_exits(BERT, plan)
    session, data = Session(model, outputs=_confidences(model)), Texts()

    together = session.run(dict(data.batch(range(11), LONGEST + 2)))

    for index in range(11):
        for name, alone in session.run(dict(data.feeds(index))).items():
            assert_close(together[name][index], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", list(PLANS))
def test_exits_are_checked_and_sit_where_they_sat(plan: str) -> None:
    before, model = BERT.model(), pruned(BERT, PLANS[plan])
    step = InsertExits(min_saving=0.0)
    places = {choice.site for choice in step.propose(before, FactCache(before)).choices}
    assert places <= {choice.site for choice in step.propose(model, FactCache(model)).choices}

    after = with_exits(BERT, plan)
    step.check(model, after, [Texts().batch(range(6))])


@pytest.mark.parametrize("net", [pytest.param(BERT, id="bert"), pytest.param(VIT, id="vit")])
def test_8_bits_find_their_sites(net: Net) -> None:
    step = Quantize8bit(min_matmul_elements=1)
    before, model = net.model(), pruned(net, PLANS["keep"])
    known = {choice.key for choice in step.propose(before, FactCache(before)).choices}
    choices = step.propose(model, FactCache(model)).choices
    assert known <= {choice.key for choice in choices}
    chosen = [choice for choice in choices if choice.key in known and choice.setting == "static"]
    reference = Session(model)

    step.apply(model, FactCache(model), chosen)
    step.fit(model, samples(net))

    feed = dict(samples(net).batch(range(6)))
    found = Session(model).run(feed)["y"].astype(np.float64)
    expected = reference.run(feed)["y"].astype(np.float64)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def test_what_crosses_a_cut_is_told() -> None:
    model = pruned(BERT, PLANS["mass"])
    facts = FactCache(model)
    cuts = {cut.value: cut for cut in facts.get(CutPoints).points}
    masks = facts.get(KeptTokens).masks

    assert masks["h1"] in cuts["h1"].side_values
    assert "h0" not in masks
    assert masks["h2"] != masks["h1"]


def test_nothing_of_the_domain_is_left_in_the_portable_form() -> None:
    for plan in PLANS:
        for lowered in (lower_to_masked(pruned(BERT, PLANS[plan])), lower_to_if(with_exits(BERT, plan))):
            nodes = [node for graph in (lowered.graph, *lowered.graph.subgraphs()) for node in graph]
            assert not any(node.domain == DOMAIN for node in nodes)
            assert not lowered.functions
