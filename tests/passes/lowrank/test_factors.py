"""Thin factors: the best of their rank for the inputs, and for nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.passes.lowrank.factors import factorize, output_directions, rank_explaining

Doubles = npt.NDArray[np.float64]


def problem(seed: int) -> tuple[Doubles, Doubles]:
    """Rows of inputs that lie near a plane of 6 of 20 directions, and a weight [20, 12]."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 20)) + 0.05 * rng.normal(size=(300, 20))
    return rows, rng.normal(size=(20, 12))


def test_without_inputs_it_is_the_truncated_decomposition() -> None:
    _, matrix = problem(0)
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)

    found = factorize(matrix, None, 5)

    np.testing.assert_allclose(found.left @ found.right, left[:, :5] * sizes[:5] @ right[:5], atol=1e-10)
    assert found.explained == pytest.approx((sizes[:5] ** 2).sum() / (sizes**2).sum())


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_with_inputs_no_factors_lose_less_of_the_output(rank: int) -> None:
    rows, matrix = problem(1)
    found = factorize(matrix, rows.T @ rows, rank)
    output = rows @ matrix
    _, sizes, _ = np.linalg.svd(output, full_matrices=False)

    lost = np.sum((output - rows @ found.left @ found.right) ** 2)

    assert lost == pytest.approx((sizes[rank:] ** 2).sum(), rel=1e-6, abs=1e-8)
    assert found.explained == pytest.approx(1 - lost / np.sum(output**2))


def test_inputs_matter() -> None:
    rows, matrix = problem(2)
    output = rows @ matrix

    lost = [
        np.sum((output - rows @ found.left @ found.right) ** 2)
        for found in (factorize(matrix, None, 6), factorize(matrix, rows.T @ rows, 6))
    ]

    assert lost[1] < 0.1 * lost[0]


def test_a_singular_gram_matrix_and_a_zero_weight_are_fine() -> None:
    rows, matrix = problem(3)
    rows[:, 10:] = 0.0

    assert np.isfinite(factorize(matrix, rows.T @ rows, 4).left).all()
    assert factorize(np.zeros((4, 3)), None, 2).explained == 1.0


def test_full_rank_changes_nothing() -> None:
    rows, matrix = problem(4)
    found = factorize(matrix, rows.T @ rows, 12)

    np.testing.assert_allclose(found.left @ found.right, matrix, atol=1e-9)


def test_directions_do_not_depend_on_signs() -> None:
    _, matrix = problem(5)
    _, directions = output_directions(matrix, None)

    assert (directions[np.argmax(np.abs(directions), axis=0), np.arange(12)] > 0).all()


def test_rank_by_explained_share() -> None:
    energies = np.array([8.0, 4.0, 2.0, 1.0, 1.0])

    assert rank_explaining(energies, 0.75, 1) == 2
    assert rank_explaining(energies, 0.76, 1) == 3
    assert rank_explaining(energies, 0.76, 4) == 4
    assert rank_explaining(energies, 1.0, 1) == 5
    assert rank_explaining(np.zeros(3), 0.9, 8) == 8
