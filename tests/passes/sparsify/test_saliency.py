"""Second-order masks and updates against exact least squares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.passes.sparsify.patterns import Pattern
from adapass.passes.sparsify.saliency import by_norm, descended, refitted, squared_error, surgeon

Doubles = npt.NDArray[np.float64]
PATTERNS = ("2:4", "4:8", "1x16-0.5", "4x4-0.5", "unstructured-0.5")


def problem(seed: int, inputs: int = 64, outputs: int = 24) -> tuple[Doubles, Doubles]:
    """A weight and the Gram matrix of correlated inputs of different sizes."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs, inputs)) * np.exp(-0.05 * np.arange(inputs))[:, None]
    rows = rng.normal(size=(800, inputs)) @ mixing * np.exp(0.5 * rng.normal(size=inputs))
    return rng.normal(size=(inputs, outputs)), rows.T @ rows


@pytest.mark.parametrize("text", PATTERNS)
def test_zeros_follow_the_pattern(text: str) -> None:
    matrix, gram = problem(0)
    pattern = Pattern.parse(text)

    weight, mask = surgeon(matrix, gram, pattern, damping=1e-2)

    assert not weight[~mask].any()
    assert 1.0 - mask.mean() == pytest.approx(pattern.share)
    if pattern.kept is not None:
        groups = mask.reshape(-1, pattern.wide, mask.shape[1]).sum(axis=1)
        assert (groups == pattern.kept).all()
    else:
        blocks = mask.reshape(64 // pattern.wide, pattern.wide, 24 // pattern.high, pattern.high)
        assert (blocks.all(axis=(1, 3)) | ~blocks.any(axis=(1, 3))).all()


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("seed", [1, 2])
def test_beats_masks_by_norm_which_beat_masks_by_size(text: str, seed: int) -> None:
    matrix, gram = problem(seed)
    pattern = Pattern.parse(text)
    norms = np.sqrt(np.diag(gram))

    errors = [
        squared_error(matrix, surgeon(matrix, gram, pattern, damping=1e-4)[0], gram),
        squared_error(matrix, np.where(by_norm(matrix, norms, pattern), matrix, 0.0), gram),
        squared_error(matrix, np.where(by_norm(matrix, None, pattern), matrix, 0.0), gram),
    ]

    assert errors[0] < errors[1] < errors[2]


def test_one_pass_updates_are_no_better_than_the_exact_fit() -> None:
    matrix, gram = problem(3)
    weight, mask = surgeon(matrix, gram, Pattern.parse("2:4"), damping=1e-6)

    exact = refitted(matrix, gram, mask, damping=1e-6)

    assert not exact[~mask].any()
    assert squared_error(matrix, exact, gram) < 0.5 * squared_error(matrix, weight, gram)


def test_removing_the_first_input_is_the_closed_form_of_optimal_brain_surgeon() -> None:
    matrix, gram = problem(4, inputs=8, outputs=1)
    damped = gram + 1e-6 * np.trace(gram) / 8 * np.eye(8)
    inverse = np.asarray(np.linalg.inv(damped), np.float64)
    # A pattern that takes out one of two, forced to the first by its tiny weight, and nothing else.
    matrix[0] = 1e-3
    matrix[3::2] = 0.0
    expected: Doubles = matrix[:, 0] - matrix[0, 0] / inverse[0, 0] * inverse[:, 0]

    moved = refitted(matrix, gram, np.arange(8)[:, None] != 0, damping=1e-6)

    np.testing.assert_allclose(moved[:, 0], expected, atol=1e-9)


def test_shares_are_those_of_the_whole_weight_however_small_the_chunks() -> None:
    matrix, gram = problem(5, inputs=27, outputs=3)

    _, mask = surgeon(matrix, gram, Pattern.parse("unstructured-0.1"), damping=1e-2)

    assert (~mask).sum() == 8


def test_inputs_never_seen_lose_their_weights_first() -> None:
    matrix = np.ones((4, 2))
    gram = np.diag([1.0, 0.0, 1.0, 0.0])

    weight, mask = surgeon(matrix, gram, Pattern.parse("2:4"), damping=1e-3)

    np.testing.assert_array_equal(mask[:, 0], [True, False, True, False])
    np.testing.assert_allclose(weight[[0, 2]], 1.0)


@pytest.mark.parametrize("seed", [5, 6])
def test_descent_comes_near_the_exact_fit(seed: int) -> None:
    matrix, gram = problem(seed)
    mask = by_norm(matrix, None, Pattern.parse("unstructured-0.6"))
    exact = squared_error(matrix, refitted(matrix, gram, mask, damping=1e-2), gram)
    masked = squared_error(matrix, np.where(mask, matrix, 0.0), gram)

    weights = [descended(matrix, gram, mask, damping=1e-2, steps=steps) for steps in (4, 12, 48)]
    errors = [squared_error(matrix, weight, gram) for weight in weights]

    assert all(not weight[~mask].any() for weight in weights)
    assert masked > errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(exact, rel=1e-3)


def test_descent_begins_where_it_is_told() -> None:
    matrix, gram = problem(7)
    mask = by_norm(matrix, None, Pattern.parse("2:4"))
    start = refitted(matrix, gram, mask, damping=1e-2)

    found = descended(matrix, gram, mask, damping=1e-2, start=start, steps=2)

    np.testing.assert_allclose(found, start, atol=1e-3 * np.abs(start).max())


def test_updates_that_wait_for_the_chunk_are_the_same() -> None:
    """Against the update of all later inputs after each one, as the method is written down."""
    matrix, gram = problem(8)
    pattern = Pattern.parse("2:4")
    found, mask = surgeon(matrix, gram, pattern, damping=1e-2)

    damped = gram + 1e-2 * float(np.trace(gram)) / len(gram) * np.eye(len(gram))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    weight = matrix.copy()
    for i in range(len(matrix)):
        weight[i + 1 :] -= np.outer(upper[i, i + 1 :], np.where(mask[i], 0.0, weight[i]) / upper[i, i])

    np.testing.assert_allclose(found, np.where(mask, weight, 0.0), atol=1e-9)
