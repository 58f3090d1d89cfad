from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from adapass.drift.evidence import log_best, log_mixture, priors
from adapass.drift.reference import Floats, clopper_pearson


@pytest.mark.parametrize("seed", range(12))
def test_the_best_share_in_the_box_is_what_a_general_solver_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    categories = int(rng.integers(2, 7))
    p = rng.dirichlet(np.full(categories, 0.7))
    low, high = clopper_pearson(rng.multinomial(400, p).astype(np.float64), 0.01)
    counts = rng.multinomial(300, rng.dirichlet(np.full(categories, 0.7))).astype(np.float64)

    found = float(log_best(counts, low, high))

    start = low + (high - low) * (1 - low.sum()) / (high - low).sum()

    def loss(q: Floats) -> float:
        return -float(np.asarray(special.xlogy(counts, np.maximum(q, 1e-300)), np.float64).sum()) / 300

    solved = optimize.minimize(
        loss,
        start,
        bounds=optimize.Bounds(low, high),
        constraints=optimize.LinearConstraint(np.ones((1, categories)), 1.0, 1.0),
        method="SLSQP",
        options={"maxiter": 1000},
        tol=1e-13,
    )
    best = -300 * float(solved.fun)
    assert found >= best - 1e-5
    assert found == pytest.approx(best, abs=0.01)


def test_the_best_share_where_all_counted_reach_their_tops() -> None:
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.4, 0.6])

    assert log_best(np.array([5.0, 0.0, 0.0]), low, high) == pytest.approx(5 * np.log(0.3))


def test_without_samples_nothing_is_known() -> None:
    low, high = clopper_pearson(np.array([3.0, 4.0]), 0.01)

    assert log_best(np.zeros(2), low, high) == 0.0
    assert log_mixture(np.zeros(2), priors(np.array([3.0, 4.0]))) == pytest.approx(0.0)


def test_the_mixture_is_a_probability() -> None:
    """Over all sequences of five samples of three categories it sums to 1."""
    prior = priors(np.array([7.0, 0.0, 2.0]))
    total = 0.0
    for first in range(6):
        for second in range(6 - first):
            counts = np.array([first, second, 5 - first - second], np.float64)
            sequences = np.exp(special.gammaln(6.0) - special.gammaln(counts + 1).sum())
            total += sequences * float(np.exp(log_mixture(counts, prior)))

    assert total == pytest.approx(1.0)


def test_bounds_hold_as_often_as_they_say() -> None:
    p = np.array([0.6, 0.3, 0.09, 0.01])
    low, high = clopper_pearson(np.random.default_rng(0).multinomial(300, p, 20_000).astype(np.float64), 0.1)

    missed = ((p < low) | (p > high)).any(axis=-1).mean()

    assert 0.01 < missed <= 0.1
