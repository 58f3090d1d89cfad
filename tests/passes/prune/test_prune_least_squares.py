"""Closed-form fits on streaming sums equal fits on all rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.errors import DataError
from adapass.moments import CrossMoments
from adapass.moments.second import CrossSums
from adapass.passes.prune.least_squares import factored, fitted, joined, squared_error, tried_ridge

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


RIDGES = (1e-6, 1e-3, 1.0, 1e3)


def _halves(rows: int, noise: float) -> tuple[CrossMoments, CrossMoments]:
    x = RNG.normal(size=(2, rows, 6))
    y = x @ TRUTH + noise * RNG.normal(size=(2, rows, 4))
    return _sums(x[0], y[0]), _sums(x[1], y[1])


def test_joined_moments_are_those_of_all_rows() -> None:
    y = np.sin(X @ TRUTH)
    whole = _sums(X, y)

    parts = joined([_sums(X[:130], y[:130]), _sums(X[130:], y[130:])])

    assert parts.x.rows == whole.x.rows
    for found, wanted in (
        (parts.x.total, whole.x.total),
        (parts.x.gram, whole.x.gram),
        (parts.total, whole.total),
        (parts.cross, whole.cross),
        (parts.squares, whole.squares),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_few_noisy_rows_are_not_fitted_where_the_weights_are_right() -> None:
    assert tried_ridge(*_halves(8, 3.0), TRUTH, RIDGES, bias=True) >= 1.0


def test_many_rows_are_believed_where_the_weights_are_wrong() -> None:
    assert tried_ridge(*_halves(400, 0.01), np.zeros_like(TRUTH), RIDGES, bias=True) <= 1e-3


def test_rounding_of_a_large_mean_is_damped_away() -> None:
    """Rows that are all but constant: centred in single precision, the moments are not a covariance."""
    x = (1000.0 + 1e-3 * RNG.normal(size=(20, 6))).astype(np.float32)
    sums = CrossSums()
    sums.add(x, x[:, :4])
    moments = sums.done("x")
    assert np.linalg.eigvalsh(moments.x.covariance).min() < -1e-8

    matrix, bias = fitted(moments, TRUTH, ridge=1e-4, bias=True)

    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(x @ matrix + bias, x[:, :4], rtol=1e-4)


def test_damping_that_is_enough_stays() -> None:
    assert factored(np.eye(3), 0.5)[1] == 0.5
    assert factored(np.diag([1.0, -0.3]), 0.05)[1] == 0.5


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite on the calibration samples"):
        factored(np.array([[np.inf]]), 1.0)
