"""Rounding by second moments: what it gains, and that it stays on the grid."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from adapass.errors import UsageError
from adapass.passes.quantize.weight_only.binary import binary_codes
from adapass.passes.quantize.weight_only.correction import branch_of
from adapass.passes.quantize.weight_only.formats import Format
from adapass.passes.quantize.weight_only.grid import Doubles, Scales, grid_of
from adapass.passes.quantize.weight_only.rounding import Method, Rounding, stored_form
from adapass.passes.quantize.weight_only.second_order import inverse_factor, second_order, squared_error


def related_inputs(inputs: int, rank: int = 6) -> Doubles:
    """Second moment of inputs that mostly say the same."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, rank)) @ rng.normal(size=(rank, inputs)) + 0.1 * rng.normal(
        size=(400, inputs)
    )
    rows *= np.linspace(0.2, 3.0, inputs)
    return np.asarray(rows.T @ rows / len(rows))


MATRIX = np.random.default_rng(1).normal(size=(96, 12))
GRAM = related_inputs(96)


def method(rounding: Rounding, *, symmetric: bool = False) -> Method:
    return Method(rounding=rounding, scales=Scales.MIN_MAX, symmetric=symmetric, damping=1e-2, ordered=True)


def error_of(format_: str, rounding: Rounding, *, symmetric: bool = False) -> float:
    form = stored_form(MATRIX, GRAM, Format.parse(format_), method(rounding, symmetric=symmetric))
    return squared_error(form.weights() - MATRIX, GRAM)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("format_", ["int4-g32", "int2-g32", "int4-g128"])
def test_second_order_makes_up_for_errors(format_: str, symmetric: bool) -> None:
    nearest = error_of(format_, Rounding.NEAREST, symmetric=symmetric)

    assert error_of(format_, Rounding.SECOND_ORDER, symmetric=symmetric) < 0.25 * nearest


def test_second_order_is_nearest_where_inputs_have_nothing_to_do_with_each_other() -> None:
    grid = grid_of(MATRIX, bits=4, block=32, symmetric=False, scales=Scales.MIN_MAX)

    found = second_order(MATRIX, np.diag(np.linspace(1.0, 2.0, 96)), grid, damping=1e-2, ordered=True)

    np.testing.assert_array_equal(found, grid.nearest(MATRIX))


def test_large_inputs_first_is_better() -> None:
    grid = grid_of(MATRIX, bits=4, block=32, symmetric=False, scales=Scales.MIN_MAX)
    errors = [
        squared_error(
            grid.weights(second_order(MATRIX, GRAM, grid, damping=1e-2, ordered=ordered)) - MATRIX, GRAM
        )
        for ordered in (True, False)
    ]

    assert errors[0] < errors[1]


def test_the_factor_is_that_of_the_inverse() -> None:
    upper = inverse_factor(GRAM, 1e-2)
    damped = GRAM + 1e-2 * np.trace(GRAM) / 96 * np.eye(96)

    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(96), atol=1e-8)
    np.testing.assert_array_equal(upper, np.triu(upper))


def test_dead_inputs_are_no_reason_to_fail() -> None:
    grid = grid_of(MATRIX, bits=4, block=32, symmetric=False, scales=Scales.MIN_MAX)

    found = second_order(MATRIX, np.zeros((96, 96)), grid, damping=1e-2, ordered=True)

    np.testing.assert_array_equal(found, grid.nearest(MATRIX))


def test_learned_is_better_than_nearest() -> None:
    pytest.importorskip("torch")

    assert error_of("int4-g32", Rounding.LEARNED) < 0.5 * error_of("int4-g32", Rounding.NEAREST)


def test_learned_rounds_up_or_down_and_no_further() -> None:
    pytest.importorskip("torch")
    form = stored_form(MATRIX, GRAM, Format.parse("int4-g32"), method(Rounding.LEARNED))
    assert form.integers is not None
    grid, values = form.integers
    scale, zero = grid.rows(96)

    assert (np.abs(values - np.clip(MATRIX / scale + zero, grid.low, grid.high)) < 1.0 + 1e-6).all()


def test_learned_without_torch_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(UsageError, match="pip install adapass\\[torch\\]"):
        error_of("int4-g32", Rounding.LEARNED)


def test_without_data_every_weight_goes_to_its_nearest() -> None:
    form = stored_form(MATRIX, None, Format.parse("int4-g32"), method(Rounding.SECOND_ORDER))

    assert form.integers is not None
    np.testing.assert_array_equal(form.integers[1], form.integers[0].nearest(MATRIX))


def test_a_branch_aims_at_the_outputs_not_at_the_weights() -> None:
    error = np.random.default_rng(2).normal(size=(96, 12))

    seen, blind = branch_of(error, GRAM, 3), branch_of(error, None, 3)

    left_over = [squared_error(error - each.product(), GRAM) for each in (seen, blind)]
    assert left_over[0] < 0.9 * left_over[1]
    assert np.linalg.norm(error - blind.product()) < np.linalg.norm(error - seen.product())


def test_a_branch_halves_what_two_bits_lose() -> None:
    assert error_of("int2-g32-rank4", Rounding.NEAREST) < 0.5 * error_of("int2-g32", Rounding.NEAREST)


def test_more_binary_codes_lose_less() -> None:
    sizes = [
        float(np.linalg.norm(binary_codes(MATRIX, codes=codes, group=32).weights() - MATRIX))
        for codes in (1, 2, 3)
    ]

    assert sizes[1] < 0.7 * sizes[0]
    assert sizes[2] < 0.7 * sizes[1]


def test_one_code_is_the_sign_times_the_mean_magnitude() -> None:
    found = binary_codes(MATRIX, codes=1, group=32)

    np.testing.assert_allclose(found.scale[0, 1], np.abs(MATRIX[32:64]).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.signs[0] > 0, MATRIX >= 0.0)


def test_codes_find_a_weight_that_is_made_of_them() -> None:
    rng = np.random.default_rng(3)
    signs = rng.choice([-1.0, 1.0], size=(2, 32, 5))
    matrix = 1.0 * signs[0] + 0.3 * signs[1]

    found = binary_codes(matrix, codes=2, group=32)

    np.testing.assert_allclose(found.weights(), matrix, atol=1e-6)


def test_signs_are_packed_eight_to_a_byte() -> None:
    found = binary_codes(MATRIX[:33], codes=2, group=32)

    packed = found.packed()

    assert packed.shape == (2, 12, 5)
    assert packed.dtype == np.uint8
    bits = np.unpackbits(packed, axis=2)[:, :, :33]
    np.testing.assert_array_equal(bits.transpose(0, 2, 1) == 1, found.signs > 0)


@pytest.mark.parametrize(("format_", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_rounds_to_its_digits(format_: str, step: float) -> None:
    form = stored_form(MATRIX, None, Format.parse(format_), method(Rounding.NEAREST))

    assert (np.abs(form.weights() - MATRIX) <= step * np.abs(MATRIX)).all()
    assert np.abs(form.weights() - MATRIX).max() > 0.0


def test_half_precision_does_not_overflow() -> None:
    form = stored_form(np.full((4, 4), 1e6), None, Format.parse("float16"), method(Rounding.NEAREST))

    assert np.isfinite(form.weights()).all()
