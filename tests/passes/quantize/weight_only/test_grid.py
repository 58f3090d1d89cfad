"""Grids: scales, ranges and nearest integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.passes.quantize.weight_only.grid import Doubles, Grid, Scales, grid_of


def drawn(seed: int, *shape: int) -> Doubles:
    return np.random.default_rng(seed).normal(size=shape)


def grid(matrix: Doubles, *, bits: int = 4, block: int = 16, symmetric: bool = False, **more: object) -> Grid:
    scales = more.get("scales", Scales.MIN_MAX)
    assert isinstance(scales, Scales)
    return grid_of(matrix, bits=bits, block=block, symmetric=symmetric, scales=scales)


@given(
    seed=st.integers(0, 1000),
    inputs=st.integers(1, 40),
    bits=st.sampled_from([2, 4, 8]),
    symmetric=st.booleans(),
    exponent=st.integers(-30, 30),
)
def test_nothing_moves_by_more_than_a_step(
    seed: int, inputs: int, bits: int, symmetric: bool, exponent: int
) -> None:
    matrix = drawn(seed, inputs, 3) * 2.0**exponent
    found = grid(matrix, bits=bits, symmetric=symmetric)

    values = found.nearest(matrix)
    moved = np.abs(found.weights(values) - matrix)

    assert values.min() >= found.low
    assert values.max() <= found.high
    assert (moved <= found.rows(inputs)[0] * (1.0 + 1e-5)).all()


def test_blocks_have_scales_of_their_own() -> None:
    matrix = np.concatenate([drawn(0, 16, 2), 100.0 * drawn(1, 16, 2), drawn(2, 5, 2)])

    found = grid(matrix)

    assert found.scale.shape == (3, 2)
    assert (found.scale[1] > 20.0 * found.scale[0]).all()
    assert np.abs(found.weights(found.nearest(matrix)) - matrix)[:16].max() < 0.3


def test_zeros_stay_zeros() -> None:
    found = grid(np.zeros((16, 2)))

    assert (found.scale == 1.0).all()
    np.testing.assert_array_equal(found.weights(found.nearest(np.zeros((16, 2)))), 0.0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_search_is_never_worse_than_the_whole_range(symmetric: bool) -> None:
    matrix = drawn(3, 64, 8) ** 3  # long tails

    whole = grid(matrix, symmetric=symmetric, block=64)
    searched = grid(matrix, symmetric=symmetric, block=64, scales=Scales.MSE)
    errors = [((g.weights(g.nearest(matrix)) - matrix) ** 2).sum(axis=0) for g in (whole, searched)]

    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.98 * errors[0].sum()


def test_inputs_that_matter_weigh_more() -> None:
    matrix = np.concatenate([drawn(4, 31, 4) * 0.1, np.full((1, 4), 3.0)])
    importance = np.concatenate([np.full(31, 1.0), np.full(1, 1e-6)])

    plain = grid_of(matrix, bits=4, block=32, symmetric=True, scales=Scales.MSE)
    weighed = grid_of(matrix, bits=4, block=32, symmetric=True, scales=Scales.MSE, importance=importance)

    assert (weighed.scale < plain.scale).all()


def test_statistics_are_twice_the_mean_magnitude() -> None:
    matrix = drawn(5, 32, 3)

    found = grid(matrix, bits=2, block=32, symmetric=True, scales=Scales.STATISTICS)

    np.testing.assert_allclose(found.scale[0], np.abs(matrix).mean(axis=0), rtol=1e-6)
