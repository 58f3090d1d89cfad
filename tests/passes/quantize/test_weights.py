"""Rounding of weights to signed 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapass.passes.quantize.weights import Floats, quantize_weight, widen_for_bias

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@given(
    weight=MATRICES, axis=st.sampled_from([0, 1, None]), reduce_range=st.booleans(), symmetric=st.booleans()
)
def test_every_weight_is_within_half_a_step(
    weight: Floats, axis: int | None, reduce_range: bool, symmetric: bool
) -> None:
    found = quantize_weight(weight, axis=axis, symmetric=symmetric, reduce_range=reduce_range)

    steps = found.scale.astype(np.float64)
    if axis is not None:
        steps = steps.reshape([-1, 1] if axis == 0 else [1, -1])
    allowed = steps * (0.5 if symmetric else 1.0) * (1 + 1e-4)
    assert (np.abs(found.dequantized().astype(np.float64) - weight) <= allowed).all()
    assert np.abs(found.values.astype(int)).max() <= (64 if reduce_range else 127)
    assert found.symmetric or not symmetric
    assert found.scale.shape == (() if axis is None else (weight.shape[axis],))


def test_a_channel_of_zeros_stays_zero_with_a_harmless_scale() -> None:
    weight = np.array([[0.0, 1.0], [0.0, -2.0]], np.float32)

    found = quantize_weight(weight, axis=1, symmetric=True, reduce_range=False)

    assert found.scale[0] == 1.0
    assert not found.values[:, 0].any()
    assert found.values[1, 1] == -127


def test_subnormal_weights_do_not_underflow_the_scale() -> None:
    found = quantize_weight(np.full((2, 2), 1e-42, np.float32), axis=0, symmetric=True, reduce_range=False)

    assert (found.scale == 1.0).all()


def test_one_scale_a_channel_is_closer_than_one_in_all() -> None:
    sizes = np.array([1, 10, 0.1, 3])
    weight = (np.random.default_rng(0).normal(size=(32, 4)) * sizes).astype(np.float32)

    each = quantize_weight(weight, axis=1, symmetric=True, reduce_range=False)
    once = quantize_weight(weight, axis=None, symmetric=True, reduce_range=False)

    assert np.abs(each.dequantized() - weight).mean() < 0.5 * np.abs(once.dequantized() - weight).mean()


@pytest.mark.parametrize("axis", [0, None])
def test_widens_the_scale_until_the_bias_fits_into_32_bits(axis: int | None) -> None:
    weight = quantize_weight(np.full((2, 3), 1e-6, np.float32), axis=axis, symmetric=True, reduce_range=False)
    bias = np.array([50.0, 1e-9], np.float32)

    wide = widen_for_bias(weight, bias, input_scale=1e-3)

    scale = np.broadcast_to(wide.scale.astype(np.float64), bias.shape)
    assert (np.abs(bias) / (1e-3 * scale) <= 2**31 - 1).all()
    assert np.abs(wide.dequantized() - weight.dequantized()).max() <= 1.01e-6
    assert widen_for_bias(weight, np.zeros(2, np.float32), input_scale=1e-3) is weight


def test_the_product_of_scales_never_underflows() -> None:
    weight = quantize_weight(np.full((2, 3), 1e-20, np.float32), axis=0, symmetric=True, reduce_range=False)

    wide = widen_for_bias(weight, np.ones(2, np.float32), input_scale=1e-30)

    assert (np.float32(1e-30) * wide.scale > 0).all()
