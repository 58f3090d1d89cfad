"""Samples for damage: measured on others than fitted on, where there are enough."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.passes.prune.curves import Change, Some, has_tokens, measured, parted, said
from adapass.passes.prune.linear_ops import store, stored
from adapass.search.damage import damage_of
from tests.passes.prune.nets import CONVS, TOKENS, Images, network


def test_fitted_and_measured_samples_are_apart() -> None:
    fit, held = parted(100, 60, 20)

    assert len(fit) == 60
    assert len(held) == 20
    assert not set(fit) & set(held)
    assert max(held) == 99


def test_a_quarter_at_most_is_measured_on() -> None:
    fit, held = parted(100, 512, 60)

    assert len(held) == 25
    assert sorted({*fit, *held}) == list(range(100))
    assert not set(fit) & set(held)


def test_few_samples_serve_for_both() -> None:
    assert parted(30, 512, 20) == (list(range(30)), list(range(30)))


def test_sentence_outputs_have_no_rows_for_tokens() -> None:
    model = network(TOKENS)
    assert not has_tokens(model, FactCache(model))
    model.graph.outputs[0] = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "t")
    assert has_tokens(model, FactCache(model))


def test_some_samples_are_samples() -> None:
    labelled = Images(10, labels=np.arange(10))
    some = Some(labelled, (7, 2, 5))

    assert len(some) == 3
    np.testing.assert_array_equal(some.feeds(1)["x"], labelled.feeds(2)["x"])
    np.testing.assert_array_equal(some.batch([2, 0])["x"], labelled.batch([5, 7])["x"])
    assert some.labels is not None
    assert some.labels.tolist() == [7, 2, 5]
    assert Some(Images(10), (1,)).labels is None


def test_changes_beside_a_plan_count_what_the_plan_lost() -> None:
    model = network(CONVS)
    planned = clone(model)
    store(planned, "w1", stored(model, "w1") * 0.5)
    batches = Batches.of(model, Images(8))
    weight = stored(model, "w3")
    changes = [Change("same", "h2", {"w3": weight}), Change("less", "h2", {"w3": weight * 0.5})]

    original = said(model, batches)
    found = measured(planned, changes, batches, original)
    alone = measured(planned, changes, batches)

    lost = damage_of(np.concatenate(original), np.concatenate(said(planned, batches)))
    assert found["same"].distortion == pytest.approx(lost.distortion, rel=1e-4)
    assert lost.distortion > 0.01
    assert found["less"].distortion > lost.distortion
    assert alone["same"].distortion < 1e-6
