"""Greedy removal: every step costs what the least-squares fit says, and picks what costs least."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from adapass.passes.prune import saliency
from adapass.passes.prune.saliency import Reader, by_score, greedy_removal, reader_of

Doubles = npt.NDArray[np.float64]


def _problem(units: int, taps: int = 1, outputs: int = 3, seed: int = 0) -> tuple[Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    width = units * taps
    rows = rng.normal(size=(500, width)) @ rng.normal(size=(width, width))
    return rng.normal(size=(width, outputs)), rows.T @ rows


def _reader(units: int, taps: int = 1, seed: int = 0, *, relative: bool = False) -> Reader:
    weight, gram = _problem(units, taps, seed=seed)
    columns = [np.arange(unit * taps, (unit + 1) * taps) for unit in range(units)]
    return reader_of(weight, gram, columns, relative=relative)


def _error_of_best_fit(weight: Doubles, gram: Doubles, kept: list[int]) -> float:
    """|x W - x_kept V|^2 with the best V, directly."""
    cross = gram[kept] @ weight
    best = np.linalg.solve(gram[np.ix_(kept, kept)], cross)
    return float(np.sum(weight * (gram @ weight)) - np.sum(best * cross))


@pytest.mark.parametrize("taps", [1, 3])
def test_errors_along_the_way_add_up_to_that_of_the_best_fit(
    taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "DAMPING", 0.0)
    weight, gram = _problem(6, taps)

    found = greedy_removal([_reader(6, taps)], 6, stops=(3,))

    for gone in range(1, 6):
        kept = [unit * taps + tap for unit in found.kept(6 - gone, 6) for tap in range(taps)]
        expected = _error_of_best_fit(weight, gram, kept)
        assert sum(found.errors[:gone]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_unit_is_the_one_that_brute_force_finds(seed: int) -> None:
    weight, gram = _problem(7, 2, seed=seed)
    costs = [_error_of_best_fit(weight, gram, [c for c in range(14) if c // 2 != unit]) for unit in range(7)]

    assert greedy_removal([_reader(7, 2, seed)], 7).order[0] == int(np.argmin(costs))


def test_each_step_is_the_best_one_given_the_steps_before() -> None:
    weight, gram = _problem(6, seed=3)

    found = greedy_removal([_reader(6, seed=3)], 6)

    for step in range(1, 5):
        before = found.order[:step]
        options = [u for u in range(6) if u not in before]
        left = [[u for u in options if u != gone] for gone in options]
        best = options[int(np.argmin([_error_of_best_fit(weight, gram, kept) for kept in left]))]
        assert found.order[step] == best


def test_a_unit_that_others_make_up_for_goes_first_however_large() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4))
    rows[:, 2] = 2.0 * rows[:, 0] - rows[:, 3]
    weight = np.array([[1.0], [0.05], [30.0], [1.0]])

    found = greedy_removal([reader_of(weight, rows.T @ rows, [np.array([i]) for i in range(4)])], 4)

    assert found.order[0] in (0, 2, 3)
    assert found.errors[0] == pytest.approx(0.0, abs=1e-3)


def test_weights_at_a_stop_are_the_refitted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency, "DAMPING", 0.0)
    weight, gram = _problem(5)

    found = greedy_removal([_reader(5)], 5, stops=(2, 4))

    for count in (2, 4):
        kept = list(found.kept(count, 5))
        best = np.zeros_like(weight)
        best[kept] = np.linalg.solve(gram[np.ix_(kept, kept)], gram[kept] @ weight)
        np.testing.assert_allclose(found.weights[count][0], best, atol=1e-8)


def test_several_readers_are_asked_together() -> None:
    one, other = _reader(5, seed=1, relative=True), _reader(5, seed=2, relative=True)
    alone = [greedy_removal([_reader(5, seed=s, relative=True)], 5).errors[0] for s in (1, 2)]

    both = greedy_removal([one, other], 5)

    assert both.errors[0] >= sum(alone) - 1e-12
    assert len(set(both.order)) == 4


def test_the_weight_of_a_reader_is_relative_to_its_output() -> None:
    weight, gram = _problem(5)
    columns = [np.array([unit]) for unit in range(5)]

    small, large = (
        greedy_removal([reader_of(scale * weight, gram, columns)], 5).errors for scale in (1.0, 100.0)
    )

    np.testing.assert_allclose(small, large, rtol=1e-6)


def test_many_units_go_several_at_a_time_and_stop_where_asked() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(900, 200)) * np.linspace(0.1, 2.0, 200)
    columns = [np.array([unit]) for unit in range(200)]

    found = greedy_removal([reader_of(rng.normal(size=(200, 4)), rows.T @ rows, columns)], 200, stops=(131,))

    assert set(found.weights) == {131}
    assert np.count_nonzero(found.weights[131][0].any(axis=1)) == 131
    assert len(found.order) == 199


def test_units_of_unequal_width_are_weighed_as_well() -> None:
    weight, gram = _problem(5)
    columns = [np.array([0, 1]), np.array([2]), np.array([3, 4])]

    found = greedy_removal([reader_of(weight, gram, columns, relative=False)], 3)

    costs = [_error_of_best_fit(weight, gram, [i for i in range(5) if i not in c]) for c in columns]
    assert found.order[0] == int(np.argmin(costs))


def test_silent_inputs_cost_nothing_and_break_nothing() -> None:
    weight = np.ones((3, 2))

    found = greedy_removal([reader_of(weight, np.zeros((3, 3)), [np.array([i]) for i in range(3)])], 3)

    assert found.order == (0, 1)
    assert np.isfinite(found.errors).all()


def test_scores_order_by_size_and_then_by_number() -> None:
    assert by_score(np.array([2.0, 1.0, 2.0, 0.5])).order == (3, 1, 0, 2)
    assert by_score(np.array([2.0, 1.0, 2.0, 0.5])).kept(2, 4) == (0, 2)
