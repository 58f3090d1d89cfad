"""The calibrated roofline, on measurements that are made from known factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapass.cache import Cache
from adapass.cost.calibrate import (
    KIND,
    NOT_CALIBRATED,
    Calibration,
    Features,
    calibrate,
    class_of,
    load,
    store,
)
from adapass.cost.model import Trust, Work
from adapass.target import load_target

TARGET = load_target("x86-64-vnni")
TRUTH = {"convolution": 3.0, "product": 1.5, "other": 8.0}
OVERHEAD = 4e-6


def regions(count: int, seed: int = 0) -> list[Features]:
    random = np.random.default_rng(seed)
    parts = [dict(zip(TRUTH, random.uniform(1e-5, 1e-3, 3), strict=True)) for _ in range(count)]
    return [Features(part, int(random.integers(1, 40)), Trust.MODEL) for part in parts]


def seconds_of(features: Features) -> float:
    return OVERHEAD * features.count + sum(TRUTH[name] * part for name, part in features.seconds.items())


def test_known_factors_are_found_again() -> None:
    features = regions(30)

    found = calibrate(features, [seconds_of(each) for each in features])

    assert found.factors == pytest.approx(TRUTH, rel=0.1)
    assert found.low == pytest.approx(1.0, abs=0.05)
    assert found.high == pytest.approx(1.0, abs=0.05)


def test_some_wild_measurements_do_not_bend_it() -> None:
    features = regions(40)
    measured = [seconds_of(each) * (10.0 if index % 10 == 0 else 1.0) for index, each in enumerate(features)]

    found = calibrate(features, measured)

    assert found.factors == pytest.approx(TRUTH, rel=0.15)


def test_the_interval_holds_what_it_says_on_fresh_regions() -> None:
    random = np.random.default_rng(1)
    features = regions(60)
    found = calibrate(features, [seconds_of(each) * random.lognormal(0, 0.2) for each in features])

    fresh = regions(300, seed=2)
    inside = 0
    for each in fresh:
        said = found.overhead_seconds or 0.0
        said = said * each.count + sum(found.factors[name] * part for name, part in each.seconds.items())
        inside += said * found.low <= seconds_of(each) * random.lognormal(0, 0.2) <= said * found.high

    assert inside / len(fresh) > 0.8


def test_factors_are_never_negative() -> None:
    random = np.random.default_rng(3)

    found = calibrate(regions(12), list(random.uniform(1e-6, 1e-2, 12)))

    assert min(found.factors.values()) >= 0.0
    assert (found.overhead_seconds or 0.0) >= 0.0


def test_two_regions_calibrate_nothing() -> None:
    assert calibrate(regions(2), [1.0, 2.0]) is NOT_CALIBRATED


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_measurements_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        calibrate(regions(3), [1.0, 1.0, seconds])


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="3 modelled regions but 2 measured"):
        calibrate(regions(3), [1.0, 1.0])


def test_a_price_is_a_model_with_the_interval() -> None:
    works = [Work("Conv", "f32", 10**9, 10**6, 10**6), Work("Relu", "f32", 10**6, 10**6, 10**6)]
    plain = NOT_CALIBRATED.price(works, TARGET, 1)

    tripled = Calibration({"convolution": 3.0, "other": 3.0}, 3.0, 0.0, 0.9, 1.2).price(works, TARGET, 1)

    assert plain.trust is Trust.MODEL
    assert tripled.seconds == pytest.approx(3 * (plain.seconds - 2 * TARGET.launch_seconds))
    assert (tripled.low, tripled.high) == pytest.approx((0.9 * tripled.seconds, 1.2 * tripled.seconds))


def test_classes_nobody_measured_take_the_common_factor() -> None:
    works = [Work("Softmax", "f32", 0, 10**6, 10**6)]
    alone = Calibration({"product": 9.0}, 2.0, 0.0, 1.0, 1.0).price(works, TARGET, 1)

    assert alone.seconds == pytest.approx(2 * 2e6 / TARGET.bandwidth(threads=1))


@pytest.mark.parametrize(
    ("op", "dtype", "expected"),
    [
        ("Conv", "f32", "convolution"),
        ("MatMul", "f32", "product"),
        ("Softmax", "f32", "other"),
        ("Conv", "i8", "product-i8"),
        ("MatMulInteger", "i8", "product-i8"),
        ("Add", "i8", "other-i8"),
    ],
)
def test_classes(op: str, dtype: str, expected: str) -> None:
    assert class_of(Work(op, dtype, 1, 1, 1)) == expected


def test_is_kept_in_the_cache(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), {"machine": "0123", "target": "cpu"}
    found = calibrate(regions(10), [seconds_of(each) for each in regions(10)])
    store(cache, key, found)

    assert load(cache, key) == found
    assert load(cache, {"machine": "4567", "target": "cpu"}) is NOT_CALIBRATED


def test_an_entry_of_another_form_calibrates_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KIND, {"machine": "0123"}, {"factors": 3})

    assert load(cache, {"machine": "0123"}) is NOT_CALIBRATED
