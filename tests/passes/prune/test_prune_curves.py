"""Samples for damage: measured on others than fitted on, where there are enough."""

from __future__ import annotations

import numpy as np

from adapass.facts import FactCache
from adapass.passes.prune.curves import Some, has_tokens, parted
from tests.passes.prune.nets import TOKENS, Images, network


def test_fitted_and_measured_samples_are_apart() -> None:
    fit, held = parted(100, 60, 20)

    assert len(fit) == 60
    assert len(held) == 20
    assert not set(fit) & set(held)
    assert max(held) == 99


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
