"""Errors of formats on normal numbers: known values, and the order they must be in."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from adapass.budgeted import Choice
from adapass.cost.capacity import capacity_bits, predicted_damage, predicted_for, relative_error
from adapass.errors import UsageError


def test_integers_are_better_with_every_bit() -> None:
    errors = [relative_error(f"int{bits}") for bits in range(2, 9)]

    assert errors == sorted(errors, reverse=True)
    # a bit more is a quarter of the error, once there are some
    assert all(3.5 < a / b < 5.0 for a, b in pairwise(errors[2:]))


def test_smaller_groups_are_better() -> None:
    errors = [relative_error(f"int4{group}") for group in ("-g16", "-g32", "-g128", "")]

    assert errors == sorted(errors)


def test_floats_hold_more_than_integers_of_half_their_width() -> None:
    assert relative_error("float32") < relative_error("float16") < relative_error("bfloat16")
    assert relative_error("bfloat16") < relative_error("int8")
    assert relative_error("float16") < relative_error("int8") < relative_error("float8-e4m3")
    assert relative_error("float8-e4m3") < relative_error("float8-e5m2") < relative_error("fp4-g32")
    assert relative_error("int8") < relative_error("int4-g32") < relative_error("int2-g32")


def test_uniform_rounding_has_the_error_of_its_step() -> None:
    """A twelfth of the squared step, which the largest of 1024 absolute normal numbers decides."""
    from scipy.special import ndtri

    shares = (np.arange(10_000) + 0.5) / 10_000
    largest = np.asarray(ndtri((1.0 + shares ** (1 / 1024)) / 2.0), np.float64)

    assert relative_error("int8") == pytest.approx(float((largest**2).mean()) / 127**2 / 12, rel=0.05)


@pytest.mark.parametrize(("form", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_floats_have_the_error_of_their_digits(form: str, digits: int) -> None:
    """Rounding to p binary digits errs by about a sixth of 2^-2p of the square."""
    assert 0.1 < relative_error(form) * 4**digits < 0.2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_leaving_out_the_smallest_costs_their_squares(share: float) -> None:
    """E[x^2; |x| < t] = share - 2 t phi(t) for the t that leaves out this share."""
    from scipy.special import ndtri

    t = float(ndtri((1 + share) / 2))
    lost = share - 2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

    assert relative_error(f"sparse-{share}") == pytest.approx(lost, rel=0.01)


def test_patterns_cost_more_than_free_choice_and_less_than_bad_luck() -> None:
    free, of_eight, of_four, of_two = (
        relative_error(f) for f in ("sparse-0.5", "sparse-4:8", "sparse-2:4", "sparse-1:2")
    )

    assert free < of_eight < of_four < of_two < 0.5


def test_the_smaller_of_two_costs_what_theory_says() -> None:
    """Half of the numbers are the smaller of two, whose mean square is 1 - 2/pi."""
    assert relative_error("sparse-1:2") == pytest.approx((1 - 2 / math.pi) / 2, rel=0.02)


def test_binary_codes_cost_what_theory_says() -> None:
    """One sign and the mean magnitude leave 1 - 2/pi, and a little less where a group has its own mean."""
    assert relative_error("binary-1") == pytest.approx(1 - 2 / math.pi, rel=0.05)
    errors = [relative_error(f"binary-{codes}") for codes in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


def test_two_forms_add_up() -> None:
    both = relative_error("sparse-2:4+int4-g32")

    assert both == pytest.approx(relative_error("sparse-2:4") + relative_error("int4-g32"), rel=0.35)
    assert both > relative_error("sparse-2:4")


def test_bits_are_those_of_an_ideal_code() -> None:
    assert 6.0 < capacity_bits("int8") < 8.0
    assert capacity_bits("sparse-0.5") == pytest.approx(-0.5 * math.log2(relative_error("sparse-0.5")))
    assert capacity_bits("float32") > 20.0


def test_it_is_always_the_same_number() -> None:
    first = relative_error("int4-g32")
    relative_error.cache_clear()

    assert relative_error("int4-g32") == first


def test_weights_and_activations_add_up() -> None:
    both = predicted_damage("int8", "int8")

    assert both.distortion == pytest.approx(np.sqrt(2) * predicted_damage("int8").distortion)
    assert both.divergence is None


@pytest.mark.parametrize(
    ("setting", "form"), [("int4-g32", "int4-g32"), ("2:4", "sparse-2:4"), ("unstructured-0.5", "sparse-0.5")]
)
def test_settings_that_name_a_form_have_a_prior(setting: str, form: str) -> None:
    found = predicted_for(Choice(family="f", site="s", setting=setting))

    assert found is not None
    assert found.distortion == pytest.approx(math.sqrt(relative_error(form)))


def test_eight_bits_round_weights_and_activations() -> None:
    assert predicted_for(Choice(family="f", site="s", setting="static")) == predicted_damage("int8", "int8")


def test_other_settings_have_none() -> None:
    assert predicted_for(Choice(family="f", site="s", setting="linear")) is None


def test_a_detail_goes_before_the_setting() -> None:
    choice = Choice(family="f", site="s", setting="second-order", detail={"form": "int4-g128"})

    assert predicted_for(choice) == predicted_damage("int4-g128")


@pytest.mark.parametrize("form", ["int9", "int4-g1", "sparse-4:4", "sparse-1:3", "", "int8+", "fp4-g0"])
def test_other_words_are_refused(form: str) -> None:
    with pytest.raises(UsageError):
        relative_error(form)
