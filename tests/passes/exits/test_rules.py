"""Rules of exits: the confidence in the graph against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from scipy.special import expit, softmax

from adapass.execution import Session
from adapass.graph.text import parse
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import Task
from adapass.passes.exits.rules import Rule, confidence, patience

Doubles = npt.NDArray[np.float64]
Formula = Callable[[Doubles], Doubles]

LOGITS = np.asarray([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [30.0, -30.0, 5.0], [-4.0, 0.1, 0.0]], np.float32)


def scores_model(count: int = 1) -> ir.Model:
    names = ", ".join(f"float[B,3] z{index}" for index in range(count))
    return parse(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({names}) => (float[B,3] y) {{ y = Identity (z0) }}'
    )


def least_certain(p: Doubles) -> Doubles:
    return np.asarray(np.maximum(p, 1 - p).min(axis=1), np.float64)


def entropy(p: Doubles) -> Doubles:
    return np.asarray(-(p * np.log(np.maximum(p, 1e-12))), np.float64)


def margin(p: Doubles) -> Doubles:
    ordered = np.sort(p, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2], np.float64)


def largest(p: Doubles) -> Doubles:
    return np.asarray(p.max(axis=1), np.float64)


def certainty(p: Doubles) -> Doubles:
    return np.asarray(1 - entropy(p).sum(axis=1) / np.log(3), np.float64)


def least_margin(p: Doubles) -> Doubles:
    return np.asarray(2 * least_certain(p) - 1, np.float64)


def label_certainty(p: Doubles) -> Doubles:
    return np.asarray(1 - (entropy(p) + entropy(1 - p)).mean(axis=1) / np.log(2), np.float64)


@pytest.mark.parametrize(
    ("rule", "task", "expected"),
    [
        (Rule.MAX_PROBABILITY, Task.CLASSIFICATION, largest),
        (Rule.MARGIN, Task.CLASSIFICATION, margin),
        (Rule.ENTROPY, Task.CLASSIFICATION, certainty),
        (Rule.MAX_PROBABILITY, Task.MULTI_LABEL, least_certain),
        (Rule.MARGIN, Task.MULTI_LABEL, least_margin),
        (Rule.ENTROPY, Task.MULTI_LABEL, label_certainty),
    ],
)
@pytest.mark.parametrize("opset", [13, 18])
def test_confidence(rule: Rule, task: Task, expected: Formula, opset: int) -> None:
    model = scores_model()
    model.graph.opset_imports[""] = opset
    value = confidence(Builder(model), rule, task, model.graph.inputs[0], 3)
    logits = LOGITS.astype(np.float64)
    probabilities = softmax(logits, axis=1) if task is Task.CLASSIFICATION else expit(logits)

    found = Session(model, outputs=[value.name or ""]).run({"z0": LOGITS})[value.name or ""]

    assert found.shape == (4,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.astype(np.float64), expected(np.asarray(probabilities)), atol=1e-5)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        pytest.param(Task.CLASSIFICATION, [[0, 1, 2, 3], [0, 0, 1, 0]], id="one-class"),
        pytest.param(Task.MULTI_LABEL, [[0, 1, 0, 1], [0, 0, 1, 0]], id="all-labels"),
    ],
)
def test_patience_counts_agreements_in_a_row(task: Task, expected: list[list[int]]) -> None:
    """Sample 0 keeps class 0 but gains a label at the third exit; sample 1 changes at the second and last."""
    said = [
        [[2, -1, -1], [2, -1, -1]],
        [[3, -1, -1], [-1, 2, -1]],
        [[3, 1, -1], [-1, 5, -1]],
        [[2, 1, -1], [-1, -1, 2]],
    ]
    model = scores_model(4)
    build = Builder(model)
    verdict = None
    names: list[str] = []
    for value in model.graph.inputs:
        verdict = patience(build, task, value, verdict)
        names.append(verdict.count.name or "")

    feeds = {f"z{index}": np.asarray(rows, np.float32) for index, rows in enumerate(said)}
    found = Session(model, outputs=names).run(feeds)

    assert np.stack([found[name] for name in names], axis=1).tolist() == expected
