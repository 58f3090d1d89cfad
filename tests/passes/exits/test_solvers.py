"""Solvers of heads: what they recover, and how they are calibrated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, softmax

from adapass.passes.exits.solvers import (
    PENALTIES,
    SHRINKAGES,
    Problem,
    best_fit,
    cross_entropy,
    disagreement,
    gda,
    logistic,
    screen,
)

Floats = npt.NDArray[np.float32]


def linear_teacher(*, exclusive: bool, noise: float = 0.0) -> Problem:
    """Features of very different scales and offsets, and a teacher that is linear in them."""
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 6)) * 10.0 ** np.arange(-2, 4) + np.arange(6)
    weight = random.standard_normal((6, 3)) / 10.0 ** np.arange(-2, 4)[:, None]
    scores = 2.0 * ((x - np.arange(6)) @ weight) + noise * random.standard_normal((600, 3))
    targets = softmax(scores, axis=1) if exclusive else expit(scores)
    return Problem(x.astype(np.float32), np.asarray(targets, np.float32), exclusive)


def every_fifth(count: int) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(count) % 5 == 0, np.bool_)


@pytest.mark.parametrize("exclusive", [True, False], ids=["one-class", "labels"])
def test_logistic_regression_recovers_a_linear_teacher(exclusive: bool) -> None:
    problem = linear_teacher(exclusive=exclusive)
    found = best_fit(problem, every_fifth(600), logistic, PENALTIES)

    said = found.head(problem.features)
    probabilities = softmax(said, axis=1) if exclusive else expit(said)
    np.testing.assert_allclose(probabilities, problem.targets, atol=0.02)
    assert found.disagreement < 0.03


@pytest.mark.parametrize("exclusive", [True, False], ids=["one-class", "labels"])
def test_discriminants_follow_the_teacher(exclusive: bool) -> None:
    problem = linear_teacher(exclusive=exclusive)
    found = best_fit(problem, every_fifth(600), gda, SHRINKAGES)
    assert found.disagreement < (0.15 if exclusive else 0.3)


def test_discriminants_are_those_of_gaussians_with_one_covariance() -> None:
    """Two Gaussians of unit covariance at +1 and -1: the log-odds are 2 * x."""
    random = np.random.default_rng(1)
    side = np.repeat([1.0, -1.0], 40_000)
    x = (random.standard_normal(80_000) + side).astype(np.float32)[:, None]
    targets = np.stack([side > 0, side < 0], axis=1).astype(np.float32)

    head = gda(Problem(x, targets, exclusive=True), 0.0, None)

    odds = head.weight[0, 0] - head.weight[0, 1]
    assert odds == pytest.approx(2.0, abs=0.05)
    assert head.bias[0] - head.bias[1] == pytest.approx(0.0, abs=0.05)


def test_temperature_takes_back_overconfidence() -> None:
    """Labels are right with odds of 1; a head ten times too sure must be scaled down to about a tenth."""
    random = np.random.default_rng(2)
    x = random.standard_normal((4000, 1)).astype(np.float32)
    label = random.random(4000) < expit(x[:, 0])
    problem = Problem(x, np.stack([label, ~label], axis=1).astype(np.float32), exclusive=True)

    def too_sure(problem: Problem, strength: float, start: object) -> object:
        del strength, start
        head = logistic(problem, 1e-4, None)
        return head.scaled(10.0)

    found = best_fit(problem, every_fifth(4000), too_sure, (1.0,))  # type: ignore[arg-type]
    honest = logistic(problem, 1e-4, None)
    assert found.head.weight[0, 0] == pytest.approx(honest.weight[0, 0], rel=0.3)


def test_noise_is_not_learned() -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((150, 60)).astype(np.float32)
    pure_noise = np.eye(3, dtype=np.float32)[random.integers(0, 3, 150)]
    found = best_fit(Problem(x, pure_noise, exclusive=True), every_fifth(150), logistic, PENALTIES)
    overfitted = logistic(Problem(x, pure_noise, exclusive=True), min(PENALTIES), None)
    assert np.abs(found.head(x)).max() < 0.2 * np.abs(overfitted(x)).max()


def test_screening_prefers_features_that_tell_something() -> None:
    problem = linear_teacher(exclusive=True)
    noise = np.random.default_rng(4).standard_normal(problem.features.shape).astype(np.float32)
    held = every_fifth(600)
    assert screen(problem, held) < 0.8 * screen(Problem(noise, problem.targets, exclusive=True), held)


def test_constant_features_do_no_harm() -> None:
    problem = linear_teacher(exclusive=True)
    padded = np.concatenate([problem.features, np.full((600, 1), 7.0, np.float32)], axis=1)
    for solver in (logistic, gda):
        head = solver(Problem(padded, problem.targets, exclusive=True), 0.01, None)
        assert np.isfinite(head(padded)).all()


def test_losses_by_hand() -> None:
    logits = np.asarray([[0.0, 0.0], [1.0, -1.0]], np.float32)
    targets = np.asarray([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert cross_entropy(logits, targets, exclusive=True) == pytest.approx(
        (np.log(2) + np.log1p(np.exp(2))) / 2
    )
    assert disagreement(logits, targets, exclusive=True) == 0.5
    assert disagreement(logits, targets, exclusive=False) == 1.0
    two = 2 * np.log(2)
    assert cross_entropy(logits[:1], targets[:1], exclusive=False) == pytest.approx(two)
