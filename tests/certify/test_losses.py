from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adapass.budgeted import Array
from adapass.certify import Metric, choose_metric, decision_threshold, losses
from adapass.errors import DataError, UsageError


def logits(classes: list[int], width: int = 3) -> Array:
    return np.eye(width, dtype=np.float32)[classes]


def test_accuracy_is_paired() -> None:
    labels = np.array([0, 1, 2, 0])
    found = losses(logits([0, 1, 0, 1]), logits([0, 2, 2, 1]), labels, Metric.ACCURACY)

    assert found.values.tolist() == [0, 1, -1, 0]
    assert (found.worse, found.better, found.mean) == (1, 1, 0.0)


def test_agreement_needs_no_labels() -> None:
    found = losses(logits([0, 1, 0]), logits([0, 2, 2]), None, Metric.AGREEMENT)
    assert found.values.tolist() == [0, 1, 1]


@pytest.mark.parametrize("form", [(4,), (4, 1)])
def test_single_outputs_are_decided_at_the_threshold(form: tuple[int, ...]) -> None:
    original, candidate = np.array([-1, 2, 3, -4.0]).reshape(form), np.array([1, 2, -3, -4.0]).reshape(form)

    for labels in (np.array([0, 1, 1, 0]), np.array([[0], [1], [1], [0]])):
        found = losses(original, candidate, labels, Metric.ACCURACY)
        assert found.values.tolist() == [1, 0, 1, 0]
    chances = losses(np.array([0.4, 0.6]), np.array([0.2, 0.3]), None, Metric.AGREEMENT, threshold=0.5)
    assert chances.values.tolist() == [0, 1]


def test_broken_candidates_are_wrong_not_lucky() -> None:
    """The argmax of a row with NaN is the place of the NaN, which may well be the label."""
    candidate = logits([0, 1, 1])
    candidate[0, 0] = np.nan
    candidate[1, 1] = np.inf

    assert losses(logits([0, 1, 1]), candidate, np.array([0, 1, 1]), Metric.ACCURACY).values.tolist() == [
        1,
        1,
        0,
    ]
    assert losses(logits([0, 1, 1]), candidate, None, Metric.AGREEMENT).values.tolist() == [1, 1, 0]
    assert losses(
        np.zeros((1, 2)), np.full((1, 2), np.nan), None, Metric.DEVIATION, scale=1.0
    ).values.tolist() == [1]
    assert losses(np.ones((1, 2)), np.full((1, 2), np.nan), None, Metric.COSINE).values.tolist() == [1]
    with pytest.raises(DataError, match="original model's outputs have NaN"):
        losses(candidate, logits([0, 1, 1]), None, Metric.AGREEMENT)


def test_multi_label_counts_the_share_of_marks() -> None:
    original, candidate = np.array([[1, -1, 1, -1.0]]), np.array([[-1, -1, 1, 1.0]])
    labels = np.array([[1, 0, 0, 1]])

    assert losses(original, candidate, labels, Metric.MULTI_LABEL_ACCURACY).values.tolist() == [0.0]
    assert losses(original, candidate, None, Metric.MULTI_LABEL_AGREEMENT).values.tolist() == [0.5]


def test_tokens_behind_the_end_do_not_count() -> None:
    original = np.stack([logits([0, 1, 2, 0]), logits([0, 1, 2, 0])])
    candidate = np.stack([logits([0, 2, 1, 1]), logits([0, 1, 2, 1])])
    labels = np.array([[0, 1, -100, -100], [0, 1, 2, 1]])

    assert losses(original, candidate, labels, Metric.TOKEN_ACCURACY).values.tolist() == [0.5, -0.25]
    lengths = np.array([2, 4])
    assert losses(original, candidate, None, Metric.TOKEN_AGREEMENT, lengths=lengths).values.tolist() == [
        0.5,
        0.25,
    ]
    assert losses(original, candidate, None, Metric.TOKEN_AGREEMENT).values.tolist() == [0.75, 0.25]


def test_regression_is_in_units_of_the_scale() -> None:
    original, candidate = np.array([[1.0], [1.0], [0.0]]), np.array([[1.5], [0.5], [90.0]])
    labels = np.array([1.0, 0.0, 0.0])

    assert losses(original, candidate, labels, Metric.ERROR, scale=2.0).values.tolist() == [0.25, -0.25, 1.0]
    assert losses(original, candidate, None, Metric.DEVIATION, scale=2.0).values.tolist() == [0.25, 0.25, 1.0]


def test_cosine_ignores_length() -> None:
    original = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    candidate = np.array([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])

    assert losses(original, candidate, None, Metric.COSINE).values.tolist() == [0.0, 0.5, 1.0, 0.0]


@pytest.mark.parametrize("metric", list(Metric))
def test_what_is_missing_is_named(metric: Metric) -> None:
    if metric.needs_labels:
        with pytest.raises(UsageError, match=f"'{metric}' needs labels"):
            losses(np.zeros((2, 3)), np.zeros((2, 3)), None, metric)
    if metric in (Metric.ERROR, Metric.DEVIATION):
        with pytest.raises(UsageError, match=f"'{metric}' needs a scale"):
            losses(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), metric)
    with pytest.raises(DataError, match=r"candidate outputs have shape \(2, 2\); \(2, 3\) expected"):
        losses(np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2, int), metric, scale=1.0)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels have shape \(2, 2\); \(2, 3\) expected"):
        losses(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 2), int), Metric.MULTI_LABEL_ACCURACY)
    with pytest.raises(DataError, match=r"labels have shape \(4,\); \(2, 3\) expected"):
        losses(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(4), Metric.ERROR, scale=1.0)
    with pytest.raises(DataError, match="choose a token metric"):
        losses(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), None, Metric.AGREEMENT)
    with pytest.raises(DataError, match=r"labels have shape \(3,\); \(2,\) expected"):
        losses(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3, int), Metric.ACCURACY)


ROWS = st.integers(1, 5)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data(), ROWS, st.integers(2, 4), st.sampled_from(list(Metric)))
def test_stay_in_bounds_and_vanish_for_the_original(
    data: st.DataObject, rows: int, width: int, metric: Metric
) -> None:
    shape = (rows, 3, width) if "token" in metric else (rows, width)
    numbers = st.floats(-5, 5, width=32, allow_nan=False)
    original = data.draw(arrays(np.float32, shape, elements=numbers))
    candidate = data.draw(arrays(np.float32, shape, elements=st.floats(width=32)))
    form = shape[:-1] if metric in (Metric.ACCURACY, Metric.TOKEN_ACCURACY) else shape
    labels = data.draw(arrays(np.int64, form, elements=st.integers(0, 1)))

    found = losses(original, candidate, labels, metric, scale=1.0)
    same = losses(original, original, labels, metric, scale=1.0)

    assert found.values.shape == (rows,)
    assert ((found.values >= found.low) & (found.values <= 1)).all()
    assert (same.values == 0).all()


@pytest.mark.parametrize(
    ("output", "labels", "metric"),
    [
        ((4, 3), np.array([0, 1, 2, 0]), Metric.ACCURACY),
        ((4, 1), np.array([0, 1, 1, 0]), Metric.ACCURACY),
        ((4,), np.array([[0], [1], [1], [0]]), Metric.ACCURACY),
        ((4, 3), np.ones((4, 3), bool), Metric.MULTI_LABEL_ACCURACY),
        ((4, 3), np.ones((4, 3)), Metric.ERROR),
        ((4, 1), np.array([0.5, 1, 2, 0]), Metric.ERROR),
        ((4, 7, 3), np.zeros((4, 7), int), Metric.TOKEN_ACCURACY),
        ((4, 3), None, Metric.AGREEMENT),
        ((4, 7, 3), None, Metric.TOKEN_AGREEMENT),
    ],
)
def test_chooses_what_fits(output: tuple[int, ...], labels: Array | None, metric: Metric) -> None:
    assert choose_metric(np.zeros(output), labels) is metric


def test_asks_where_a_guess_would_be_wrong() -> None:
    with pytest.raises(UsageError, match="one number a sample: choose --metric agreement"):
        choose_metric(np.zeros((4, 1)), None)
    assert choose_metric(np.zeros((4, 1)), None, threshold=0.5) is Metric.AGREEMENT
    with pytest.raises(UsageError, match="no metric fits outputs"):
        choose_metric(np.zeros((4, 2, 2, 2)), None)
    with pytest.raises(UsageError, match="no metric fits outputs"):
        choose_metric(np.zeros((4, 1)), np.array([3, 4, 5, 6]))


MODEL = '<ir_version: 10, opset_import: ["" : 20]> net (float[b,1] x) => (float[b,1] y) {{ {body} }}'


@pytest.mark.parametrize(
    ("body", "threshold"),
    [
        ("y = Sigmoid(x)", 0.5),
        ("s = Sigmoid(x) y = Identity(s)", 0.5),
        ("s = Sigmoid(x) y = Neg(s)", 0.0),
        ("y = Relu(x)", 0.0),
    ],
)
def test_finds_the_threshold_in_the_graph(body: str, threshold: float) -> None:
    assert decision_threshold(ir.from_onnx_text(MODEL.format(body=body))) == threshold
