"""The bound that certification is expected to give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.certify.bounds import upper_bound
from adapass.certify.losses import Losses, Metric
from adapass.search.risk import NET_SHARE, cautious, discordance, expected_bound


def verdicts(worse: int, better: int, count: int) -> npt.NDArray[np.float64]:
    return np.concatenate([np.ones(worse), -np.ones(better), np.zeros(count - worse - better)])


@pytest.mark.parametrize(("worse", "better"), [(40, 20), (90, 60), (12, 8), (30, 3)])
def test_the_bound_that_comes_out(worse: int, better: int) -> None:
    values = verdicts(worse, better, 3000)

    expected = expected_bound(values, samples=3000, confidence=0.95)

    found = upper_bound(Losses(values, Metric.ACCURACY), 0.95)
    assert expected == pytest.approx(found, rel=0.15)


def test_luck_is_not_believed() -> None:
    lucky, even = (
        expected_bound(verdicts(*n, 500), samples=3000, confidence=0.95) for n in ((5, 25), (15, 15))
    )

    assert lucky == even > NET_SHARE * 0.06
    assert cautious(-0.04, 0.06) == NET_SHARE * 0.06
    assert cautious(0.03, 0.06) == 0.03


def test_no_change_seen_is_not_no_change() -> None:
    few, many = (discordance(np.zeros(count)) for count in (100, 10_000))

    assert few > 50 * many > 0.0


def test_more_samples_and_less_confidence_are_tighter() -> None:
    values = verdicts(15, 5, 500)

    usual = expected_bound(values, samples=1000, confidence=0.95)
    assert expected_bound(values, samples=4000, confidence=0.95) < usual
    assert expected_bound(values, samples=1000, confidence=0.9) < usual
