from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from adapass.certify import Losses, Method, Metric, data_message, p_value, required_samples, smallest_budget
from adapass.errors import UsageError


def zero_losses(n: int, metric: Metric) -> Losses:
    return Losses(np.zeros(n), metric)


@pytest.mark.parametrize("max_drop", [0.05, 0.02, 0.01])
@pytest.mark.parametrize(
    ("method", "metric"),
    [
        (Method.EXACT_PAIRED, Metric.ACCURACY),
        (Method.CLOPPER_PEARSON, Metric.AGREEMENT),
        (Method.BETTING, Metric.MULTI_LABEL_ACCURACY),
    ],
)
def test_the_least_number_is_the_least(max_drop: float, method: Method, metric: Metric) -> None:
    least = required_samples(max_drop, method=method)

    assert least is not None
    assert p_value(zero_losses(int(1.03 * least) + 1, metric), max_drop) <= 0.05
    assert p_value(zero_losses(int(0.97 * least), metric), max_drop) > 0.05


def test_enough_samples_pass_nine_times_in_ten() -> None:
    n = required_samples(0.02, expected_discordance=0.03)
    assert n is not None
    rng = np.random.default_rng(0)

    passed = np.mean(
        [
            p_value(Losses(rng.choice([1.0, -1.0, 0.0], n, p=[0.015, 0.015, 0.97]), Metric.ACCURACY), 0.02)
            <= 0.05
            for _ in range(300)
        ]
    )

    assert 0.84 < passed < 0.96


def test_large_numbers_come_from_the_normal_approximation() -> None:
    expected = 0.03 * ((stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) / 0.001) ** 2
    assert required_samples(0.001, expected_discordance=0.03) == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_certified_is_none() -> None:
    assert required_samples(0.0) is None
    assert required_samples(0.02, expected_discordance=0.03, method=Method.CLOPPER_PEARSON) is None


@pytest.mark.parametrize("samples", [100, 1133])
def test_smallest_budget_is_the_inverse(samples: int) -> None:
    budget = smallest_budget(samples)

    assert p_value(zero_losses(samples, Metric.ACCURACY), budget) <= 0.05
    assert p_value(zero_losses(samples, Metric.ACCURACY), budget - 2e-4) > 0.05
    assert smallest_budget(samples, expected_discordance=0.03) > budget


def test_messages_name_the_numbers() -> None:
    assert data_message(5000, 0.02) is None
    assert data_message(2000, 0.01, method=Method.CLOPPER_PEARSON) is None
    few = data_message(100, 0.01)
    assert few is not None
    assert "100 certify samples, budget 1 points at 95 %: too few" in few
    assert "at least 300 are needed" in few
    some = data_message(400, 0.01)
    assert some is not None
    assert "certify one that differs on 3 %" in some
    none = data_message(400, 0.0)
    assert none is not None
    assert "better than the original" in none


def test_refuses_numbers_out_of_range() -> None:
    with pytest.raises(UsageError, match="0 samples found"):
        smallest_budget(0)
    with pytest.raises(UsageError, match=r"expected discordance 2\.0 found"):
        required_samples(0.01, expected_discordance=2.0)
    with pytest.raises(UsageError, match="max drop"):
        required_samples(-0.01)
