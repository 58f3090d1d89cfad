from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from adapass.drift import Monitor, Reference, samples_to_alarm
from adapass.drift.evidence import log_best
from adapass.drift.power import draw, first_alarms
from adapass.drift.reference import clopper_pearson
from adapass.errors import DataError, UsageError

COUNTS = (498, 393, 66, 21, 0, 153)
SHARES = np.array(COUNTS) / sum(COUNTS)
HARDER = 0.7 * SHARES + 0.3 * np.eye(6)[-1]
Integers = npt.NDArray[np.int64]


def stream(shares: npt.NDArray[np.float64], samples: int, seed: int) -> Integers:
    return np.random.default_rng(seed).choice(len(shares), samples, p=shares)


@pytest.mark.parametrize(("rate", "size"), [(0.5, 300), (0.05, 1131)])
def test_false_alarms_stay_below_the_rate(rate: float, size: int) -> None:
    runs = 100
    rng = np.random.default_rng(5)
    reference = rng.multinomial(size, SHARES, runs).astype(np.float64)
    low, high = clopper_pearson(reference, rate / 2 / 2)

    found = first_alarms(
        draw(rng, SHARES, runs, 2000), reference, lambda c, r: log_best(c, low[r], high[r]), rate
    )

    assert (found > 0).mean() <= rate + 3 * math.sqrt(rate * (1 - rate) / runs)


def test_the_test_above_can_fail() -> None:
    """Taking the reference for the truth, as a plain test would, gives far too many alarms."""
    runs, size = 100, 300
    rng = np.random.default_rng(5)
    reference = rng.multinomial(size, SHARES, runs).astype(np.float64)
    exact = (reference + 1e-9) / size

    found = first_alarms(
        draw(rng, SHARES, runs, 2000), reference, lambda c, r: log_best(c, exact[r], exact[r]), 0.05
    )

    assert (found > 0).mean() > 0.3


@pytest.mark.parametrize(("calm", "median", "late"), [(0, 130, 260), (2500, 260, 480)])
def test_harder_inputs_are_noticed_soon_whenever_they_begin(calm: int, median: int, late: int) -> None:
    waits = samples_to_alarm(Reference(COUNTS), HARDER.tolist(), calm=calm, limit=1000, runs=40)

    known = sorted(wait for wait in waits if wait is not None)
    assert len(known) == 40
    assert 16 <= known[20] <= median
    assert known[37] <= late


def test_the_simulation_says_what_the_monitor_does() -> None:
    rng = np.random.default_rng(3)
    blocks = np.concatenate([draw(rng, SHARES, 12, 400), draw(rng, HARDER, 12, 600)])
    low, high = Reference(COUNTS).bounds(0.05)
    references = np.tile(np.array(COUNTS, np.float64), (12, 1))

    found = first_alarms(blocks, references, lambda c, _: log_best(c, low, high), 0.1)

    for run, block in enumerate(found):
        monitor = Monitor(Reference(COUNTS), 0.1)
        for counts in blocks[:, run]:
            monitor.observe(np.repeat(np.arange(6), counts).tolist())
        assert (monitor.alarm.sample // 8 if monitor.alarm else 0) == block
    assert (found > 0).sum() > 6


def test_an_alarm_says_when_and_what_and_stays() -> None:
    monitor = Monitor(Reference(COUNTS))
    calm = stream(SHARES, 3000, 1)
    assert monitor.observe(calm.tolist()) is None
    assert monitor.evidence < monitor.needed == 200

    alarm = monitor.observe(stream(HARDER, 600, 2).tolist())

    assert alarm is not None
    assert 3000 < alarm.sample < 3400
    assert 2900 <= alarm.since <= 3100
    assert alarm.seen[5] > 0.3 > 0.14 > alarm.expected[5]
    assert "Exit 5 changed most: 13.5% expected" in alarm.message("exit")
    monitor.observe(calm.tolist())
    assert monitor.alarm == alarm
    assert monitor.samples == 6600
    assert sum(monitor.counts) == 6600


def test_how_the_stream_is_cut_does_not_matter() -> None:
    taken = np.concatenate([stream(SHARES, 501, 1), stream(HARDER, 170, 2)]).tolist()
    whole, single, odd = (Monitor(Reference(COUNTS)) for _ in range(3))

    whole.observe(taken)
    for category in taken:
        single.observe([category])
    for start in range(0, len(taken), 13):
        odd.observe(taken[start : start + 13])

    assert whole.evidence > 1.5
    assert whole.to_json() == single.to_json() == odd.to_json()


def test_a_break_changes_nothing() -> None:
    taken = np.concatenate([stream(SHARES, 1003, 1), stream(HARDER, 597, 2)]).tolist()
    whole, broken = Monitor(Reference(COUNTS, 2)), Monitor(Reference(COUNTS, 2))

    whole.observe(taken)
    for start in range(0, len(taken), 111):
        broken.observe(taken[start : start + 111])
        broken = Monitor.from_json(broken.to_json())

    assert whole.alarm is not None
    assert broken.alarm == whole.alarm
    assert broken.to_json() == whole.to_json()
    assert broken.reference == whole.reference


def test_a_category_nobody_expected_is_noticed() -> None:
    monitor = Monitor(Reference((1000, 0, 0)))
    monitor.observe([0] * 200)

    alarm = monitor.observe([1] * 40)

    assert alarm is not None
    assert alarm.since == 200


def test_a_single_category_never_drifts() -> None:
    monitor = Monitor(Reference((5,)))

    assert monitor.observe([0] * 1000) is None
    assert monitor.evidence == pytest.approx(1.0)


def test_a_late_place_in_the_sequence_leaves_more_room() -> None:
    first, later = Reference(COUNTS).bounds(0.01), Reference(COUNTS, position=5).bounds(0.01)

    assert later[0][0] < first[0][0] < SHARES[0] < first[1][0] < later[1][0]


@pytest.mark.parametrize(
    ("categories", "message"),
    [([0, 6], "category 6 at place 1"), ([-1], "category -1"), ([0.5], "whole numbers"), ([[1]], "flat")],
    ids=["too-high", "below-zero", "fraction", "nested"],
)
def test_refuses_what_is_no_category_and_takes_none_of_it(categories: list[int], message: str) -> None:
    monitor = Monitor(Reference(COUNTS))

    with pytest.raises(UsageError, match=message):
        monitor.observe(categories)

    assert monitor.samples == 0


@pytest.mark.parametrize(
    ("counts", "position"), [((), 0), ((0, 0), 0), ((-1, 5), 0), ((1,) * 300, 0), ((1, 1), -1)]
)
def test_refuses_a_reference_without_sense(counts: tuple[int, ...], position: int) -> None:
    with pytest.raises(UsageError):
        Reference(counts, position)


def test_shares_become_the_counts_they_came_from() -> None:
    assert Reference.from_shares(SHARES.tolist(), 1131).counts == COUNTS
    with pytest.raises(UsageError, match="shares of 1000 samples"):
        Reference.from_shares(SHARES.tolist(), 1000)
    with pytest.raises(UsageError, match="not the shares"):
        Reference.from_shares([2.0, -1.0], 10)


@pytest.mark.parametrize("rate", [0.0, 0.6, math.nan])
def test_refuses_a_rate_without_sense(rate: float) -> None:
    with pytest.raises(UsageError, match="false alarm rate"):
        Monitor(Reference(COUNTS), rate)


def test_refuses_shares_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="6 shares"):
        samples_to_alarm(Reference(COUNTS), [0.5, 0.5])


def damaged(**changes: object) -> str:
    monitor = Monitor(Reference(COUNTS))
    monitor.observe([0] * 8 + [1] * 8 + [0])
    return json.dumps({**json.loads(monitor.to_json()), **changes})


ZERO, EIGHT, MANY = [0] * 6, [8, 0, 0, 0, 0, 0], [8, 8, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "document"),
        (" " * (5 << 20), "bytes"),
        (damaged(schema_version=2), "schema_version"),
        (damaged(counts=[9, 8]), "6 categories"),
        (damaged(counts=[90, 8, 0, 0, 0, 0]), "do not fit"),
        (damaged(marks=[[0, ZERO], [1, EIGHT]]), "do not fit"),
        (damaged(marks=[[0, ZERO], [1, [9, 0, 0, 0, 0, 0]], [2, MANY]]), "sum to the samples"),
        (damaged(marks=[[0, ZERO], [1, [0, 0, 8, 0, 0, 0]], [2, MANY]]), "fall"),
        (damaged(log_evidence=-1.0), "log_evidence"),
        (damaged(marks=[], alarm={"sample": 16, "since": 16, "seen": [1.0, 0, 0, 0, 0, 0]}), "the alarm"),
        (damaged(marks=[], alarm={"sample": 16, "since": 0, "seen": [1.0]}), "the alarm"),
    ],
)
def test_a_damaged_state_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Monitor.from_json(text)
