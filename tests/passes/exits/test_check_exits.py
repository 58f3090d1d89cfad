"""The second look: damage that neutral thresholds hide is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Feeds, Samples
from adapass.errors import VerificationError
from adapass.facts import FactCache
from adapass.ops import read_exits
from adapass.passes.exits.heads import HeadKind
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.output_form import Task
from adapass.passes.exits.record import read_record
from adapass.passes.exits.rules import Rule

Case = tuple[ir.Model, Samples]


def fitted(case: Case, step: InsertExits) -> tuple[ir.Model, ir.Model, list[Feeds]]:
    after, samples = case
    before = after.clone()
    facts = FactCache(after)
    step.apply(after, facts, step.propose(after, facts).choices)
    step.fit(after, samples)
    return before, after, [samples.feeds(0), samples.feeds(1), samples.batch(range(5))]


def negated(model: ir.Model, name: str) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(-np.asarray(value.const_value.numpy()), name=name)


@pytest.mark.parametrize("rule", list(Rule))
def test_sound_exits_pass(case: Case, rule: Rule) -> None:
    step = InsertExits(rule=rule)
    step.check(*fitted(case, step))


@pytest.mark.parametrize("features", ["mean", "std+grid2", "max+grid4", "grid8"])
def test_every_image_feature_agrees_with_numpy(
    conv: ir.Model, make_images: Callable[[int], Samples], features: str
) -> None:
    step = InsertExits(features=features)
    step.check(*fitted((conv, make_images(40)), step))


@pytest.mark.parametrize(
    ("head", "features"), [("linear", "max+mean"), ("gda", "class-token"), ("attentive", "auto")]
)
def test_every_token_feature_agrees_with_numpy(
    token_model: ir.Model, make_sentences: Callable[[int], Samples], head: str, features: str
) -> None:
    step = InsertExits(head=HeadKind(head), features=features)
    step.check(*fitted((token_model, make_sentences(60)), step))


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize(
    ("task", "end"),
    [
        (Task.MULTI_LABEL, ""),
        (Task.AUTO, "y = Sigmoid (z)"),
        (Task.AUTO, "y = Softmax (z)"),
        (Task.AUTO, "y = LogSoftmax (z)"),
    ],
)
def test_every_kind_of_output_agrees_with_numpy(
    mlp: Callable[..., ir.Model], make_vectors: Callable[[int], Samples], rule: Rule, task: Task, end: str
) -> None:
    step = InsertExits(rule=rule, task=task)
    step.check(*fitted((mlp(end=end), make_vectors(60)), step))


@pytest.mark.parametrize("which", [2, 3], ids=["weight", "bias"])
def test_a_changed_weight_is_found(case: Case, which: int) -> None:
    step = InsertExits()
    before, after, feeds = fitted(case, step)
    negated(after, read_record(after).heads[1].values[which])
    with pytest.raises(VerificationError, match=r"exit 1 at .* not those that were fitted"):
        step.check(before, after, feeds)


def test_features_from_elsewhere_are_found(case: Case) -> None:
    step = InsertExits()
    before, after, feeds = fitted(case, step)
    values = ir.convenience.create_value_mapping(after.graph)
    producer = values[read_record(after).heads[2].values[1]].producer()
    assert producer is not None
    scaled = ir.node("Neg", [values[read_record(after).heads[2].values[0]]])
    scaled.outputs[0].name = "negated"
    after.graph.insert_before(producer, scaled)
    producer.replace_input_with(0, scaled.outputs[0])
    with pytest.raises(VerificationError, match=r"confidence is off|the output of exit 2"):
        step.check(before, after, feeds)


def test_exits_that_change_places_are_found(case: Case) -> None:
    step = InsertExits()
    before, after, feeds = fitted(case, step)
    first, second = read_exits(after)[:2]
    for a, b in zip(first.selects, second.selects, strict=True):
        taken_a, taken_b = a.inputs[1], b.inputs[1]
        a.replace_input_with(1, taken_b)
        b.replace_input_with(1, taken_a)
    with pytest.raises(VerificationError, match=r"adapass_exit is off|the output of exit"):
        step.check(before, after, feeds)


def test_a_threshold_read_at_the_wrong_place_is_found(case: Case) -> None:
    step = InsertExits()
    before, after, feeds = fitted(case, step)
    stops = [found.stop.producer() for found in read_exits(after)[:2]]
    assert stops[0] is not None
    assert stops[1] is not None
    stops[0].replace_input_with(1, stops[1].inputs[1])
    with pytest.raises(VerificationError, match="adapass_exit is off"):
        step.check(before, after, feeds)
