from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from adapass.certify import Certificate, Losses, Method, Metric, Verdict, certify, issue
from adapass.errors import ArtifactError, UsageError

COVERAGE_RUNS = 300


def losing(worse: int, n: int = 1000, metric: Metric = Metric.ACCURACY) -> Losses:
    values = np.zeros(n)
    values[:worse] = 1
    return Losses(values, metric)


def test_takes_the_last_that_passes() -> None:
    verdict = certify([losing(0), losing(2), losing(5), losing(40)], 0.02)

    assert verdict.index == 2
    assert len(verdict.p_values) == 4


def test_stops_at_the_first_failure_and_computes_nothing_behind_it() -> None:
    asked: list[int] = []

    def candidates() -> Iterator[Losses]:
        for number, worse in enumerate([0, 50, 0, 0]):
            asked.append(number)
            yield losing(worse)

    verdict = certify(candidates(), 0.02)

    assert verdict.index == 0
    assert asked == [0, 1]


def test_none_passes() -> None:
    assert certify([losing(50)], 0.02).index is None
    assert certify([], 0.02).index is None


def test_candidates_are_tested_on_the_same_data() -> None:
    with pytest.raises(
        UsageError, match="candidate 1 has 999 samples of metric 'accuracy'; 1000 of 'accuracy'"
    ):
        certify([losing(0), losing(0, 999)], 0.02)
    with pytest.raises(UsageError, match="of metric 'agreement'; 1000 of 'accuracy' expected"):
        certify([losing(0), losing(0, metric=Metric.AGREEMENT)], 0.02)


def certificate(metric: Metric = Metric.ACCURACY, max_drop: float = 0.01) -> Certificate:
    losses = losing(2, 1123, metric)
    verdict = certify([losing(0, 1123, metric), losses], max_drop)
    return issue(losses, verdict, position=1, max_drop=max_drop, confidence=0.95, split_seed=7, data="ab")


def test_certificate_says_what_is_promised() -> None:
    found = certificate()

    assert found.statement == (
        "accuracy drop at most 1.0 point with 95 % confidence (n = 1,123, exact-paired test)"
    )
    assert (found.worse, found.better, found.tested, found.position) == (2, 0, 2, 1)
    assert found.labelled
    assert found.method is Method.EXACT_PAIRED
    assert found.estimate < found.upper_bound <= 0.01


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("max_drop", [0.01, 0.025])
def test_every_metric_has_words(metric: Metric, max_drop: float) -> None:
    assert any(text in certificate(metric, max_drop).statement for text in ("1.0", "2.5", "0.01", "0.025"))


def test_certificate_survives_json() -> None:
    found = certificate()
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("samples", None, "'samples' is None; a whole number expected"),
        ("samples", 1.5, "whole number"),
        ("estimate", "low", "'estimate' is 'low'; a number expected"),
        ("estimate", True, "a number expected"),
        ("metric", "luck", "'luck' is not a valid Metric"),
        ("data", 3, "'data' is 3; a text expected"),
    ],
)
def test_damaged_certificates_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Certificate.from_dict(certificate().to_dict() | {name: value})


def test_no_certificate_for_what_did_not_pass() -> None:
    with pytest.raises(UsageError, match="candidate 1 is not certified; the first 1 of 2"):
        issue(
            losing(0),
            Verdict(1, (0.01, 0.2)),
            position=1,
            max_drop=0.1,
            confidence=0.95,
            split_seed=0,
            data="",
        )


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "benchmarks" / "certificate_coverage.py"
    spec = importlib.util.spec_from_file_location("certificate_coverage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    "name", ["rare losses", "discordant", "few samples", "first one is wrong", "no labels", "ten marks"]
)
def test_the_chosen_candidate_keeps_its_promise(benchmark: ModuleType, name: str) -> None:
    """A smaller run of the benchmark: whole procedure, known populations, a hair over the budget."""
    population = next(population for population in benchmark.populations() if population.name == name)

    found = benchmark.wrong_share(population, COVERAGE_RUNS, (1,))

    assert found["wrong"] <= benchmark.allowed_share(COVERAGE_RUNS)


def test_room_to_spare_is_certified(benchmark: ModuleType) -> None:
    assert benchmark.power((1100, 0.02, 0.0, 0.03), 100, (1,))["exact"] >= 0.9
