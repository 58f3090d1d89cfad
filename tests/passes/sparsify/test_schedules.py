"""Layer-wise shares by the usual rules, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import UsageError
from adapass.passes.sparsify.schedules import SCHEDULES, erk, global_magnitude, lamp, lamp_scores, uniform

A = np.array([[1.0, -2.0], [3.0, -4.0]], np.float32)
B = np.array([0.1, 0.2, 10.0, 20.0], np.float32)


def test_uniform_gives_everyone_the_same() -> None:
    assert uniform({"a": A, "b": B}, 0.25) == {"a": 0.25, "b": 0.25}


def test_global_magnitude_takes_the_smallest_of_all() -> None:
    # sorted: 0.1 0.2 | 1 2 | 3 4 10 20: half of eight are both small ones of b and both of a
    assert global_magnitude({"a": A, "b": B}, 0.5) == {"a": 0.5, "b": 0.5}
    assert global_magnitude({"a": A, "b": B}, 0.25) == {"a": 0.0, "b": 0.5}


def test_lamp_scores_are_squares_over_those_not_smaller() -> None:
    expected = [1 / 30, 4 / 29, 9 / 25, 16 / 16]

    np.testing.assert_allclose(lamp_scores(A), expected)


def test_lamp_does_not_care_how_large_a_layer_is_scaled() -> None:
    assert lamp({"a": A, "b": A * 1000}, 0.5) == {"a": 0.5, "b": 0.5}


def test_lamp_keeps_the_largest_weight_of_every_layer() -> None:
    shares = lamp({"a": A, "one": np.array([1e-6], np.float32)}, 0.6)

    assert shares == {"a": 0.75, "one": 0.0}


def test_erk_keeps_in_proportion_to_sizes() -> None:
    weights = {"wide": np.ones((10, 40)), "narrow": np.ones((10, 10))}
    # raw: 50/400 and 20/100; kept: e * 50 + e * 20 = 0.3 * 500, e = 150/70: density 0.268 and 0.429
    shares = erk(weights, 0.7)

    assert shares["wide"] == pytest.approx(1 - 150 / 70 * 50 / 400)
    assert shares["narrow"] == pytest.approx(1 - 150 / 70 * 20 / 100)


def test_erk_leaves_a_layer_whole_when_it_would_keep_more_than_all() -> None:
    weights = {"wide": np.ones((100, 100)), "tiny": np.ones((2, 2))}
    # raw: 200/10000 and 4/4; at 0.9 both want e * 200 + e * 4 = 1000.4, e = 4.9
    shares = erk(weights, 0.9)

    assert shares["tiny"] == 0.0
    assert shares["wide"] == pytest.approx(1 - (0.1 * 10004 - 4) / 10000)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_all_rules_take_the_same_share_of_everything(name: str, share: float) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(scale=1 + i, size=(20, 10 * (i + 1))) for i in range(4)}

    shares = SCHEDULES[name](weights, share)

    total = sum(array.size for array in weights.values())
    assert sum(shares[n] * a.size for n, a in weights.items()) == pytest.approx(share * total, abs=1.0)
    assert all(0.0 <= value <= 1.0 for value in shares.values())


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        pytest.param({}, 0.5, id="no-weights"),
        pytest.param({"a": A}, 1.0, id="everything-goes"),
        pytest.param({"a": A}, -0.1, id="less-than-nothing"),
        pytest.param({"a": np.zeros((0, 2))}, 0.5, id="empty"),
    ],
)
def test_refuses_what_makes_no_sense(
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], share: float
) -> None:
    for schedule in SCHEDULES.values():
        with pytest.raises(UsageError):
            schedule(weights, share)
