"""The search for thresholds: never above the budget, always cheaper along the path, and not fooled."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.errors import UsageError
from adapass.passes.exits.threshold_paths import Observed, per_exit_path
from adapass.passes.exits.thresholds import Costs, evaluate, select

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def costs(exits: int, head: float = 0.01, *, removable: bool = True) -> Costs:
    return Costs(np.full(exits + 1, 1.0 / (exits + 1)), np.full(exits, head), removable, counts=not removable)


def calibrated(count: int, exits: int, seed: int = 0) -> tuple[Floats, Doubles]:
    """Exits that are right with the probability they state, later ones surer."""
    random = np.random.default_rng(seed)
    hardness = random.random(count)[:, None]
    skill = np.linspace(0.4, 1.2, exits)
    confidence = np.clip(skill - 0.7 * hardness + 0.2 * random.random((count, exits)), 0.3, 0.999)
    wrong = random.random((count, exits)) > confidence
    return confidence.astype(np.float32), np.append(wrong, np.zeros((count, 1)), axis=1).astype(np.float64)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), exits=st.integers(1, 5), budget=st.sampled_from([0.0, 0.01, 0.05, 0.3]))
def test_never_exceeds_the_budget_and_gets_cheaper(seed: int, exits: int, budget: float) -> None:
    confidence, losses = calibrated(150, exits, seed)
    found = select(confidence, losses, costs(exits), budget)

    seconds = [setting.expected_seconds for setting in found]
    assert all(later < earlier for earlier, later in pairwise(seconds))
    for setting in found:
        again = evaluate(confidence, losses, costs(exits), setting.thresholds)
        assert again.loss == setting.loss <= budget
        assert again.expected_seconds == setting.expected_seconds < costs(exits).whole
        assert setting.shares.sum() == pytest.approx(1.0)
        assert setting.kept


def test_a_larger_budget_is_never_slower() -> None:
    confidence, losses = calibrated(1500, 4)
    cheapest = [
        select(confidence, losses, costs(4), budget)[-1].expected_seconds for budget in (0.02, 0.05, 0.1)
    ]
    assert cheapest == sorted(cheapest, reverse=True)
    assert cheapest[-1] < 0.78


def test_exits_that_are_always_wrong_are_not_used() -> None:
    confidence, _ = calibrated(300, 3)
    losses = np.append(np.ones((300, 3)), np.zeros((300, 1)), axis=1)
    assert select(confidence, losses, costs(3), 0.01) == ()


def test_a_perfect_first_exit_takes_nearly_everything() -> None:
    confidence, _ = calibrated(400, 3)
    found = select(confidence, np.zeros((400, 4)), costs(3), 0.0)
    assert found[-1].shares.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found[-1].expected_seconds == pytest.approx(0.26)


def test_heads_that_cost_more_than_they_save_are_dropped() -> None:
    confidence, losses = calibrated(800, 6)
    cheap, dear = (select(confidence, losses, costs(6, head), 0.1)[-1] for head in (0.0, 0.1))
    assert len(dear.kept) < len(cheap.kept)


def test_an_overconfident_exit_gets_its_own_threshold_or_none() -> None:
    """Exit 1 always says 0.99 and is mostly wrong: a common threshold cannot use the good exits."""
    confidence, losses = calibrated(3000, 3)
    confidence[:, 1] = 0.99
    losses[:, 1] = np.random.default_rng(1).random(3000) < 0.7
    found = select(confidence, losses, costs(3), 0.05)
    assert found
    assert 1 not in found[-1].kept


def test_one_threshold_by_exhaustive_search() -> None:
    """The per-exit path ends at the minimum of seconds + price * loss when there is only one exit."""
    confidence, losses = calibrated(200, 1)
    cost = costs(1)
    data = Observed.of(confidence, losses)
    for price, thresholds in zip(
        cost.whole * np.geomspace(100.0, 0.5, 16), per_exit_path(data, cost, 0.0), strict=True
    ):
        candidates = [np.asarray([t], np.float32) for t in (*confidence[:, 0], np.inf)]
        values = [
            (s := evaluate(confidence, losses, cost, t)).expected_seconds + price * s.loss for t in candidates
        ]
        reached = evaluate(confidence, losses, cost, thresholds)
        assert reached.expected_seconds + price * reached.loss == pytest.approx(min(values))


def test_costs_count_segments_and_kept_heads_only() -> None:
    confidence = np.asarray([[0.9, 0.1], [0.1, 0.9], [0.1, 0.1]], np.float32)
    losses = np.zeros((3, 3))
    cost = Costs(np.asarray([1.0, 2.0, 4.0]), np.asarray([0.25, 0.5]))

    both = evaluate(confidence, losses, cost, np.asarray([0.5, 0.5], np.float32))
    second = evaluate(confidence, losses, cost, np.asarray([np.inf, 0.5], np.float32))

    assert both.expected_seconds == pytest.approx((1.25 + 3.75 + 7.75) / 3)
    assert second.expected_seconds == pytest.approx((7.5 + 3.5 + 7.5) / 3)
    assert both.shares.tolist() == pytest.approx([1 / 3] * 3)


def test_patience_uses_whole_numbers_and_pays_for_every_head_before_the_last() -> None:
    random = np.random.default_rng(0)
    counts = np.cumsum(random.random((500, 4)) < 0.8, axis=1).astype(np.float32) - 1
    losses = np.append(random.random((500, 4)) < 0.3 / np.arange(1, 5), np.zeros((500, 1)), axis=1).astype(
        float
    )
    found = select(np.maximum(counts, 0), losses, costs(4, removable=False), 0.2)
    assert found
    for setting in found:
        assert len(set(setting.thresholds.tolist())) == 1
        assert float(setting.thresholds[0]).is_integer()

    last_only = np.asarray([np.inf, np.inf, np.inf, 1.0], np.float32)
    free, paid = (evaluate(counts, losses, costs(4, removable=way), last_only) for way in (True, False))
    assert paid.expected_seconds == pytest.approx(free.expected_seconds + 0.03)


@pytest.mark.parametrize(
    ("losses", "message"),
    [(np.zeros((10, 2)), "needs losses \\[10, 3\\]"), (np.full((10, 3), np.nan), "must be finite")],
    ids=["shape", "not-finite"],
)
def test_tables_that_do_not_fit_are_refused(losses: Doubles, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(np.zeros((10, 2), np.float32), losses, costs(2), 0.1)


def test_too_few_samples_choose_nothing() -> None:
    assert select(np.zeros((2, 1), np.float32), np.zeros((2, 2)), costs(1), 0.5) == ()


def test_exits_on_different_scales_get_their_own_thresholds_with_safer_steps_before() -> None:
    """Exit 0 is right above 0.5, exit 1 above 0.02: a common threshold must be 0.5."""
    confidence = np.random.default_rng(0).random((4000, 2)).astype(np.float32)
    losses = np.append(confidence < np.asarray([0.5, 0.02]), np.zeros((4000, 1)), axis=1).astype(np.float64)

    found = select(confidence, losses, costs(2, 0.0), 0.0)

    assert found[-1].thresholds.tolist() == pytest.approx([0.5, 0.02], abs=0.01)
    assert found[-1].expected_seconds == pytest.approx(0.5 / 3 + 0.49 * 2 / 3 + 0.01, abs=0.02)
    assert len(found) > 3
    assert found[0].expected_seconds > 0.9


def test_a_table_without_exits_chooses_nothing() -> None:
    assert select(np.zeros((8, 0), np.float32), np.zeros((8, 1)), costs(0), 0.5) == ()


def test_settings_known_from_elsewhere_compete_within_the_budget() -> None:
    confidence, losses = calibrated(400, 3)
    own = select(confidence, losses, costs(3), 0.05)
    everyone = np.asarray([-1.0, np.inf, np.inf], np.float32)
    right = losses * np.asarray([0.0, 1.0, 1.0, 1.0])

    too_lossy = select(confidence, losses, costs(3), 0.05, [everyone])
    found = select(confidence, right, costs(3), 0.05, [everyone])

    assert [s.thresholds.tolist() for s in too_lossy] == [s.thresholds.tolist() for s in own]
    assert found[-1].expected_seconds == pytest.approx(0.26)
    assert all(later.expected_seconds < earlier.expected_seconds for earlier, later in pairwise(found))


def test_known_settings_are_placed_by_their_cost() -> None:
    confidence, losses = calibrated(400, 3)
    bolder, safer = select(confidence, losses, costs(3), 0.1)[-1], select(confidence, losses, costs(3), 0.02)

    found = select(confidence, losses, costs(3), 0.02, [setting.thresholds for setting in reversed(safer)])

    assert [s.expected_seconds for s in found] == [s.expected_seconds for s in safer]
    assert found[-1].expected_seconds > bolder.expected_seconds


def test_known_thresholds_belong_to_as_many_exits() -> None:
    confidence, losses = calibrated(50, 3)
    with pytest.raises(UsageError, match=r"must be \[3\].*found \[2\]"):
        select(confidence, losses, costs(3), 0.1, [np.zeros(2, np.float32)])
