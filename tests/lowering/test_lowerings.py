"""All lowerings compute what the masked definition computes, for every batch size and every mix of exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapass.execution import Session
from adapass.graph.check import check_structure
from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import Wiring, run_stages
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]
Make = Callable[[str, int], ir.Model]
Feed = Callable[[ir.Model, int, int], Feeds]
Run = Callable[[Feeds], Feeds]

FAMILIES = (
    "mlp",
    "tokens",
    "square_mask",
    "patience",
    "time_first",
    "row_numbers",
    "folded",
    "two_outputs",
    "branching",
    "shared",
)
LOWERINGS = ("if", "staged", "masked")
TOLERANCE = 2e-6
"""Relative to the largest output: matrix products of other row counts may add in another order."""


def runner(model: ir.Model, lowering: str) -> Run:
    if lowering == "staged":
        return _staged(model)
    lowered = lower_to_if(model) if lowering == "if" else lower_to_masked(model)
    check_structure(lowered)
    return Session(lowered, optimize=True).run


def _staged(model: ir.Model) -> Run:
    stages = lower_to_stages(model)
    for stage in stages.models:
        check_structure(stage)
    wiring = Wiring.from_json(stages.wiring.to_json())
    runners = [
        _Stage(Session(stage, outputs=part.outputs, optimize=True))
        for stage, part in zip(stages.models, wiring.stages, strict=True)
    ]
    first = next((name for name in _feed_names(model) if name in wiring.batch_axes), None)
    return lambda feeds: (
        run_stages(wiring, runners, feeds, feeds[first].shape[0] if first is not None else 1).outputs
    )


def _feed_names(model: ir.Model) -> list[str]:
    return [value.name or "" for value in model.graph.inputs]


class _Stage:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]:
        assert tuple(outputs) == self._session.outputs
        found = self._session.run(feeds)
        return [found[name] for name in outputs]


@cache
def _runners(make: Make, family: str, exits: int) -> dict[str, Run]:
    model = make(family, exits)
    return {lowering: runner(model, lowering) for lowering in LOWERINGS}


@cache
def _definition(make: Make, family: str, exits: int) -> Session:
    return Session(make(family, exits))


def thresholds(make: Make, family: str, exits: int, feeds: Feeds, share: float) -> Array:
    """Limits that this share of the samples reaches at each exit; 0 nobody, 1 everybody."""
    if share in (0, 1):
        return np.full(exits, -np.inf if share else np.inf, np.float32)
    if family == "patience":
        return np.full(exits, round(2 * (1 - share)) + 0.5, np.float32)
    names = [f"prob_{k}" for k in range(exits)]
    found = Session(make(family, exits), outputs=names).run(feeds)
    return np.array([_between(np.sort(found[each].astype(np.float32)), share) for each in names], np.float32)


def _between(ordered: npt.NDArray[np.float32], share: float) -> float:
    """A limit halfway between two confidences, so that rounding decides nothing."""
    place = round((1 - share) * len(ordered))
    low = ordered[place - 1] if place else ordered[0] - 1
    high = ordered[place] if place < len(ordered) else ordered[-1] + 1
    return float(low + high) / 2


def assert_same(found: Feeds, expected: Feeds) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        scale = max(1.0, float(np.abs(values.astype(np.float64)).max(initial=0)))
        difference = np.abs(found[name].astype(np.float64) - values.astype(np.float64))
        assert difference.max(initial=0) <= TOLERANCE * scale, name


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("exits", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_the_definition(make: Make, feed: Feed, family: str, exits: int, batch: int) -> None:
    for seed, share in enumerate((0, 1, 0.3, 0.5, 0.7)):
        feeds = feed(make(family, exits), batch, seed)
        feeds[EXIT_THRESHOLDS] = thresholds(make, family, exits, feeds, share)
        expected = _definition(make, family, exits).run(feeds)

        for run in _runners(make, family, exits).values():
            assert_same(run(feeds), expected)

        if share in (0, 1):
            assert set(expected[EXIT_INDEX].tolist()) == ({0} if share else {exits})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batches_of_these_tests_take_several_exits(make: Make, feed: Feed, family: str) -> None:
    feeds = feed(make(family, 4), 32, 0)
    feeds[EXIT_THRESHOLDS] = thresholds(make, family, 4, feeds, 0.7 if family == "patience" else 0.3)

    taken = set(_definition(make, family, 4).run(feeds)[EXIT_INDEX].tolist())

    assert len(taken) >= 3


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_samples_alone(make: Make, feed: Feed, family: str, lowering: str) -> None:
    run, model = _runners(make, family, 2)[lowering], make(family, 2)
    feeds = feed(model, 7, 3)
    limits = thresholds(make, family, 2, feeds, 0.4)

    together = run({**feeds, EXIT_THRESHOLDS: limits})

    for row in range(7):
        one = {name: array[row : row + 1] if array.ndim else array for name, array in feeds.items()}
        alone = run({**one, EXIT_THRESHOLDS: limits})
        assert_same(alone, {name: array[row : row + 1] for name, array in together.items()})


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_integers_that_cross_keep_their_scale(make: Make, feed: Feed, lowering: str) -> None:
    """Their scale came from the whole batch, so nobody may take it from the rows that are left."""
    for batch in (1, 7):
        feeds = feed(make("quantized", 2), batch, 1)
        feeds[EXIT_THRESHOLDS] = thresholds(make, "quantized", 2, feeds, 0.3)

        assert_same(
            _runners(make, "quantized", 2)[lowering](feeds), _definition(make, "quantized", 2).run(feeds)
        )


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_thresholds_have_a_default_that_never_stops(make: Make, feed: Feed, lowering: str) -> None:
    feeds = feed(make("mlp", 2), 3, 0)

    found = _runners(make, "mlp", 2)[lowering](feeds)

    assert found[EXIT_INDEX].tolist() == [2, 2, 2]


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_fixed_batch_of_one(make: Make, feed: Feed, lowering: str) -> None:
    run = _runners(make, "one_sample", 3)[lowering]
    for seed in range(6):
        feeds = feed(make("one_sample", 3), 1, seed)
        feeds[EXIT_THRESHOLDS] = np.array([0.6, 0.5, 0.4], np.float32)

        assert_same(run(feeds), _definition(make, "one_sample", 3).run(feeds))


@pytest.mark.parametrize("lowering", ["if", "staged"])
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=9), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_any_pattern_of_stops(lowering: str, pattern: list[list[bool]], seed: int) -> None:
    model, run, definition = _chosen(lowering)
    certain = np.array(pattern, np.float32)
    rng = np.random.default_rng(seed)
    feeds: Feeds = {
        "x": rng.standard_normal((len(pattern), 8)).astype(np.float32),
        "certain": certain,
        EXIT_THRESHOLDS: np.full(4, 0.5, np.float32),
    }
    assert {value.name for value in model.graph.inputs} == feeds.keys()

    found = run(feeds)

    assert_same(found, definition.run(feeds))
    assert found[EXIT_INDEX].tolist() == [row.index(True) if any(row) else 4 for row in pattern]


_CHOSEN: dict[str, tuple[ir.Model, Run, Session]] = {}


@pytest.fixture(autouse=True, scope="module")
def _prepare_chosen(make: Make) -> None:
    """Hypothesis runs one test function many times: what it needs is built once, outside."""
    model = make("chosen", 4)
    for lowering in ("if", "staged"):
        run = runner(model, "if") if lowering == "if" else _staged(model)
        _CHOSEN[lowering] = (model, run, Session(model))


def _chosen(lowering: str) -> tuple[ir.Model, Run, Session]:
    return _CHOSEN[lowering]


@pytest.mark.parametrize("exits", [1, 3])
@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_finished_samples_reach_nothing_later(make: Make, feed: Feed, lowering: str, exits: int) -> None:
    """Behind every exit the model fails for samples whose trap is set."""
    model = make("trapped", exits)
    feeds = feed(model, 16, 0)
    feeds[EXIT_THRESHOLDS] = thresholds(make, "trapped", exits, feeds, 0.3)
    expected = Session(model).run(feeds)
    taken = expected[EXIT_INDEX].astype(np.int64)
    assert {0, exits} <= set(taken.tolist())
    run = runner(model, lowering)
    trap = np.where(np.arange(exits)[None] >= taken[:, None], 99, 0)

    assert_same(run({**feeds, "trap": trap}), expected)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_the_trap_springs_for_samples_that_stay(make: Make, feed: Feed, lowering: str) -> None:
    model = make("trapped", 1)
    feeds = feed(model, 3, 0) | {"trap": np.array([[0], [99], [0]], np.int64)}
    # With an infinite limit everybody stays; with none everybody is computed by the masked form only.
    limit = -np.inf if lowering == "masked" else np.inf

    with pytest.raises(Exception, match="Out of range"):
        runner(model, lowering)({**feeds, EXIT_THRESHOLDS: np.array([limit], np.float32)})
