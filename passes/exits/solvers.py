"""Fit the weights of a head: convex or closed form, deterministic, in NumPy and SciPy.

Features are ``[N, F]``; targets ``[N, C]`` are rows of probabilities, or independent labels between 0
and 1. Weights come back for the raw features: standardisation is folded in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

PENALTIES = (3e-2, 1e-2, 1e-3)
"""Strengths of the L2 penalty that are tried, strongest first (each starts from the one before)."""
SHRINKAGES = (0.5, 0.1, 0.02)
"""Shares of the mean variance mixed into the covariance of ``gda``, strongest first."""
SCREENING = 0.1
TEMPERATURES = tuple(float(t) for t in np.geomspace(0.1, 10.0, 121))
MAX_ITERATIONS = 60
MIN_ITERATIONS = 20
WORK_LIMIT = 4e9
"""Floating-point operations one solve may take; wider problems get fewer iterations instead."""
FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Affine:
    """Logits are ``features @ weight + bias``."""

    weight: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        return features @ self.weight + self.bias

    def scaled(self, factor: float) -> Affine:
        return Affine(self.weight * np.float32(factor), self.bias * np.float32(factor))


Solver = Callable[["Problem", float, "Affine | None"], Affine]
"""Solve at one strength of regularisation, starting from a solution at another."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a head should say for the samples it is fitted on."""

    features: Floats
    targets: Floats
    exclusive: bool
    """One class is right; else labels are independent."""

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Problem:
        return Problem(self.features[chosen], self.targets[chosen], self.exclusive)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, and what the held-out samples said about it."""

    head: Affine
    cross_entropy: float
    disagreement: float
    strength: float
    readiness: tuple[float, float] = (1.0, 0.0)
    """Slope and offset: the decision is right with the probability sigmoid(slope * lead + offset)."""


def best_fit(
    problem: Problem, held: npt.NDArray[np.bool_], solver: Solver, strengths: tuple[float, ...]
) -> Fitted:
    """Choose the strength and the temperature on the held-out rows, then fit all rows with them.

    The temperature makes one threshold mean the same at every exit (Guo et al. 2017).
    """
    fit, test = problem.rows(~held), problem.rows(held)
    best: tuple[float, float, Affine] | None = None
    head: Affine | None = None
    for strength in strengths:
        head = solver(fit, strength, head)
        loss = _calibrated(head, test)[1]
        if best is not None and loss > best[0]:
            break
        best = (loss, strength, head)
    if best is None:
        raise ValueError("strengths must not be empty")
    loss, strength, head = best
    temperature = _calibrated(head, test)[0]
    said = head.scaled(temperature)(test.features)
    wrong = disagreement(said, test.targets, exclusive=test.exclusive)
    ready = readiness(said, test.targets, exclusive=test.exclusive)
    return Fitted(solver(problem, strength, head).scaled(temperature), loss, wrong, strength, ready)


def screen(problem: Problem, held: npt.NDArray[np.bool_]) -> float:
    """Held-out cross-entropy of the closed-form head: enough to compare features."""
    return _calibrated(gda(problem.rows(~held), SCREENING, None), problem.rows(held))[1]


def cross_entropy(logits: Floats, targets: Floats, *, exclusive: bool) -> float:
    """Mean over samples, in nats; for independent labels the sum over the labels."""
    scores = logits.astype(np.float64)
    if exclusive:
        return float(-(targets * log_softmax(scores, axis=1)).sum(axis=1).mean())
    return float((np.logaddexp(0.0, scores) - targets * scores).sum(axis=1).mean())


def disagreement(logits: Floats, targets: Floats, *, exclusive: bool) -> float:
    """Share of samples whose decision differs from the target's."""
    return float(_differs(logits, targets, exclusive=exclusive).mean())


def readiness(logits: Floats, targets: Floats, *, exclusive: bool) -> tuple[float, float]:
    """Slope (not negative) and offset of the log odds that a decision is the target's, in its lead.

    The lead is that of the largest score over the second, for labels the least of their absolute scores.
    The most probable ones under normal priors of width 1 about 1 and 0, which is what a calibrated head of
    two classes states: few samples, all of them right, neither make a head certain nor its lead worthless.
    """
    scores = logits.astype(np.float64)
    lead = (
        np.diff(np.partition(scores, -2, axis=1)[:, -2:])[:, 0] if exclusive else np.abs(scores).min(axis=1)
    )
    right = ~_differs(logits, targets, exclusive=exclusive)
    prior = np.asarray([1.0, 0.0])

    def objective(both: Doubles) -> tuple[float, Doubles]:
        odds, away = both[0] * lead + both[1], both - prior
        residual = np.asarray(expit(odds) - right, np.float64)
        loss = float((np.logaddexp(0.0, odds) - right * odds).sum() + 0.5 * away @ away)
        slopes = np.asarray([residual @ lead, residual.sum()]) + away
        return loss / len(right), np.asarray(slopes / len(right), np.float64)

    found = minimize(objective, prior, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


def _differs(logits: Floats, targets: Floats, *, exclusive: bool) -> npt.NDArray[np.bool_]:
    if exclusive:
        return np.asarray(logits.argmax(axis=1) != targets.argmax(axis=1), np.bool_)
    return np.asarray(((logits > 0) != (targets > 0.5)).any(axis=1), np.bool_)


def logistic(problem: Problem, penalty: float, start: Affine | None) -> Affine:
    """Logistic regression on soft targets; ``penalty / 2 * |weight|^2`` is for standardised features."""
    center, scale = _standard(problem.features)
    x = (problem.features - center) / scale
    shape = (x.shape[1], problem.targets.shape[1])
    begin = np.zeros(shape[0] * shape[1] + shape[1])
    if start is not None:
        begin[: -shape[1]] = (start.weight * scale[:, None]).ravel()
        begin[-shape[1] :] = start.bias + center @ start.weight
    iterations = int(np.clip(WORK_LIMIT / (4.0 * x.size * shape[1] + 1.0), MIN_ITERATIONS, MAX_ITERATIONS))

    def objective(flat: Doubles) -> tuple[float, Doubles]:
        return _logistic_loss(flat, x, problem.targets, penalty, exclusive=problem.exclusive)

    found = minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    solution = np.asarray(found.x, np.float64)
    weight = solution[: -shape[1]].reshape(shape) / scale[:, None]
    return _affine(weight, solution[-shape[1] :] - center.astype(np.float64) @ weight)


def gda(problem: Problem, shrinkage: float, start: Affine | None) -> Affine:
    """Discriminants of Gaussians that share a covariance, shrunk towards a multiple of the identity."""
    del start
    center, scale = _standard(problem.features)
    x = (problem.features - center) / scale
    targets = problem.targets
    if problem.exclusive:
        weight, bias = _class_discriminants(x, targets, shrinkage)
    else:
        weight, bias = _label_discriminants(x, targets, shrinkage)
    raw = weight / scale[:, None]
    return _affine(raw, bias - center.astype(np.float64) @ raw)


def _calibrated(head: Affine, held: Problem) -> tuple[float, float]:
    """The factor on the logits with the lowest held-out cross-entropy, and that cross-entropy."""
    logits = head(held.features)
    losses = [
        cross_entropy(logits * np.float32(t), held.targets, exclusive=held.exclusive) for t in TEMPERATURES
    ]
    best = int(np.argmin(losses))
    return TEMPERATURES[best], losses[best]


def _standard(features: Floats) -> tuple[Floats, Floats]:
    center = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    constant = scale < FLOOR * (np.abs(center) + 1.0)
    return center.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)


def _logistic_loss(
    flat: Doubles, x: Floats, targets: Floats, penalty: float, *, exclusive: bool
) -> tuple[float, Doubles]:
    count, classes = targets.shape
    weight = flat[:-classes].reshape(-1, classes).astype(np.float32)
    logits = x @ weight + flat[-classes:].astype(np.float32)
    probabilities = softmax(logits, axis=1) if exclusive else expit(logits)
    residual = ((probabilities - targets) / np.float32(count)).astype(np.float32)
    loss = cross_entropy(logits, targets, exclusive=exclusive)
    loss += 0.5 * penalty * float(np.square(weight, dtype=np.float64).sum())
    slope = x.T @ residual + np.float32(penalty) * weight
    return loss, np.concatenate([slope.ravel(), residual.sum(axis=0)]).astype(np.float64)


def _class_discriminants(x: Floats, targets: Floats, shrinkage: float) -> tuple[Doubles, Doubles]:
    prior = targets.sum(axis=0, dtype=np.float64) + FLOOR
    means = (targets.T @ x).astype(np.float64) / prior[:, None]
    share = prior / prior.sum()
    within = _second_moment(x) - (means * share[:, None]).T @ means
    weight = _solve(within, shrinkage, means.T)
    return weight, np.log(share) - 0.5 * (means * weight.T).sum(axis=1)


def _label_discriminants(x: Floats, targets: Floats, shrinkage: float) -> tuple[Doubles, Doubles]:
    absent = np.float32(1.0) - targets
    yes, no = (t.sum(axis=0, dtype=np.float64) + FLOOR for t in (targets, absent))
    with_label, without = (targets.T @ x) / yes[:, None], (absent.T @ x) / no[:, None]
    weight = _solve(_second_moment(x), shrinkage, (with_label - without).T)
    return weight, np.log(yes / no) - 0.5 * ((with_label + without) * weight.T).sum(axis=1)


def _second_moment(x: Floats) -> Doubles:
    return (x.T @ x).astype(np.float64) / len(x)


def _solve(covariance: Doubles, shrinkage: float, right: Doubles) -> Doubles:
    size = len(covariance)
    mean_variance = max(float(np.trace(covariance)) / size, FLOOR)
    shrunk = (1.0 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(size)
    return np.asarray(cho_solve(cho_factor(shrunk), right), np.float64)


def _affine(weight: Doubles, bias: Doubles) -> Affine:
    return Affine(weight.astype(np.float32), bias.astype(np.float32))
