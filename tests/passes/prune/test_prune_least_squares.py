"""Closed-form fits on streaming sums equal fits on all rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.moments import CrossMoments
from adapass.moments.second import CrossSums
from adapass.passes.prune.least_squares import fitted, squared_error

Doubles = npt.NDArray[np.float64]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 6)) + 3.0
TRUTH, SHIFT = RNG.normal(size=(6, 4)), RNG.normal(size=4)


def _sums(x: Doubles, y: Doubles) -> CrossMoments:
    sums = CrossSums()
    for start in range(0, len(x), 37):
        sums.add(x[start : start + 37], y[start : start + 37])
    return sums.done("x")


def test_what_is_linear_is_found_exactly() -> None:
    matrix, bias = fitted(_sums(X, X @ TRUTH + SHIFT), np.zeros((6, 4)), ridge=1e-12, bias=True)

    np.testing.assert_allclose(matrix, TRUTH, atol=1e-6)
    np.testing.assert_allclose(bias, SHIFT, atol=1e-5)


def test_without_a_bias_none_is_fitted() -> None:
    y = X @ TRUTH + SHIFT
    matrix, bias = fitted(_sums(X, y), np.zeros((6, 4)), ridge=1e-12, bias=False)

    np.testing.assert_allclose(matrix, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-6)
    assert not bias.any()


def test_streaming_is_all_at_once() -> None:
    y = np.sin(X @ TRUTH)
    matrix, bias = fitted(_sums(X, y), np.zeros((6, 4)), ridge=1e-12, bias=True)

    rows = np.column_stack([X, np.ones(len(X))])
    np.testing.assert_allclose(np.vstack([matrix, bias]), np.linalg.lstsq(rows, y, rcond=None)[0], atol=1e-6)


def test_a_missing_unit_that_is_a_sum_of_others_is_made_up_for_exactly() -> None:
    x = X.copy()
    x[:, 5] = x[:, 0] - 2.0 * x[:, 3]
    y = x @ TRUTH + SHIFT

    matrix, bias = fitted(_sums(x[:, :5], y), TRUTH[:5], ridge=1e-12, bias=True)

    np.testing.assert_allclose(x[:, :5] @ matrix + bias, y, atol=1e-5)


def test_unseen_directions_keep_their_weights() -> None:
    x = X.copy()
    x[:, 2] = 0.0
    before = np.full((6, 4), 7.0)

    matrix, _ = fitted(_sums(x, x @ TRUTH), before, ridge=1e-6, bias=True)

    np.testing.assert_allclose(matrix[2], 7.0, atol=1e-6)
    np.testing.assert_allclose(np.delete(matrix, 2, 0), np.delete(TRUTH, 2, 0), atol=1e-2)


def test_constant_inputs_leave_the_weights_and_fit_the_bias() -> None:
    x = np.full((50, 3), 2.0)
    y = RNG.normal(size=(50, 2))
    before = np.ones((3, 2))

    matrix, bias = fitted(_sums(x, y), before, ridge=1e-4, bias=True)

    np.testing.assert_array_equal(matrix, before)
    np.testing.assert_allclose(bias, y.mean(axis=0) - 6.0)


@pytest.mark.parametrize("bias", [True, False])
def test_the_error_is_that_of_the_rows(bias: bool) -> None:
    y = np.sin(X @ TRUTH)
    matrix, shift = fitted(_sums(X, y), TRUTH, ridge=1e-3, bias=bias)

    found = squared_error(_sums(X, y), matrix, shift)

    assert found == pytest.approx(float(((X @ matrix + shift - y) ** 2).sum()), rel=1e-8)
