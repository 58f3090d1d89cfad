"""Counted work: what ran is what must have run, by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.analyses.work import flops_of
from adapass.budgeted import Array, Feeds
from adapass.cost import counted
from adapass.cost.counted import CountedWork, counted_work
from adapass.errors import DataError, VerificationError
from adapass.graph.text import parse
from adapass.ops import EXIT_SELECT, EXIT_THRESHOLDS, add_function

EXITS = """
<ir_version: 8, opset_import: ["" : 18, "adapass" : 1]>
net (float[N, 4] x, float[1] adapass_exit_thresholds) => (float[N, 2] y, int64[N] adapass_exit)
<float[1] adapass_exit_thresholds = {0.5}, float[4, 4] w0 = {WEIGHT}, float[4, 2] w1 = {HEAD},
 float[4, 2] w2 = {HEAD}, int64 zero = {0}, int64 one = {1}, int64[1] axis = {1}>
{
    a = MatMul (x, w0)
    h = MatMul (x, w1)
    c = ReduceMax <keepdims = 0> (x, axis)
    t = Gather (adapass_exit_thresholds, zero)
    stop = GreaterOrEqual (c, t)
    rest = MatMul (a, w2)
    y = adapass.ExitSelect (stop, h, rest)
    adapass_exit = adapass.ExitSelect (stop, zero, one)
}
""".replace("WEIGHT", ", ".join(["0.5"] * 16)).replace("HEAD", ", ".join(["0.5"] * 8))
LIVE = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[N, T, 4] x) => (float[n, 3] y)
<float[4, 3] w = {WEIGHT}, int64[2] flat = {-1, 4}, int64[1] axis = {1}, float zero = {0.0},
 int64[1] everything = {-1}>
{
    rows = Reshape (x, flat)
    largest = ReduceMax <keepdims = 0> (rows, axis)
    live = Greater (largest, zero)
    found = NonZero (live)
    places = Reshape (found, everything)
    taken = Gather <axis = 0> (rows, places)
    y = MatMul (taken, w)
}
""".replace("WEIGHT", ", ".join(["0.5"] * 12))


@dataclass(frozen=True)
class Rows:
    x: Array

    def __len__(self) -> int:
        return len(self.x)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self.x[list(indices)]}

    @property
    def labels(self) -> Array | None:
        return None


@pytest.fixture
def exits() -> ir.Model:
    model = parse(EXITS)
    add_function(model, EXIT_SELECT)
    return model


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_what_lies_behind_an_exit_counts_for_those_that_reach_it(exits: ir.Model, batch: int) -> None:
    """Three of ten stop. The weights are 4 x 4, 4 x 2 (the head) and 4 x 2 (the rest)."""
    x = np.zeros((10, 4), np.float32)
    x[[1, 4, 9]] = 1.0

    found = counted_work(exits, Rows(x), batch=batch)

    assert found.by_product["h"] == 8.0
    assert found.by_product["rest"] == pytest.approx(0.7 * 8)
    assert found.by_product["a"] == pytest.approx(0.7 * 16)
    assert found.multiply_adds == pytest.approx(8 + 0.7 * 24)


def test_knobs_are_turned_and_samples_chosen(exits: ir.Model) -> None:
    x = np.linspace(0.0, 0.9, 10)[:, None].repeat(4, 1).astype(np.float32)
    at = {EXIT_THRESHOLDS: np.asarray([0.85], np.float32)}
    never = {EXIT_THRESHOLDS: np.asarray([np.inf], np.float32)}
    always = {EXIT_THRESHOLDS: np.asarray([-1.0], np.float32)}

    whole, part, least = (counted_work(exits, Rows(x), knobs=knobs) for knobs in (never, at, always))

    assert (whole.multiply_adds, part.multiply_adds, least.multiply_adds) == pytest.approx(
        (32.0, 8 + 0.9 * 24, 8.0)
    )
    assert part.share_of(whole) == pytest.approx((8 + 0.9 * 24) / 32)
    assert least.left_of(whole) == {"a": 0.0, "h": 1.0, "rest": 0.0}
    last = counted_work(exits, Rows(x), [9], knobs=at)
    assert (last.samples, last.multiply_adds) == (1, 8.0)


def test_rows_are_counted_as_they_are_and_there_may_be_none() -> None:
    """One of three rows, then two, then none: the number of rows is known at run time only."""
    x = -np.ones((3, 3, 4), np.float32)
    x[0, 1, 0] = x[1, 0, 2] = x[1, 2, 3] = 1.0

    model = parse(LIVE)
    each = [counted_work(model, Rows(x), [index]).multiply_adds for index in range(3)]

    assert each == [12.0, 24.0, 0.0]
    assert counted_work(model, Rows(x)).by_product == {"y": 12.0}
    assert counted_work(model, Rows(x), batch=3).by_product == {"y": 12.0}


@pytest.mark.parametrize(("limit", "most"), [("EVENTS", 60), ("MOST_RUNS", 4)])
def test_a_long_run_is_counted_in_parts(
    limit: str, most: int, exits: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).random((9, 4)).astype(np.float32)
    at_once = counted_work(exits, Rows(x))
    profiled: list[int] = []
    whole = counted.profile

    def watched(file: Path, feeds: Sequence[Feeds]) -> Iterator[counted.Ran]:
        profiled.append(len(feeds))
        return whole(file, feeds)

    monkeypatch.setattr(counted, limit, most)
    monkeypatch.setattr(counted, "profile", watched)

    assert counted_work(exits, Rows(x)) == at_once
    assert sum(profiled) == 9
    assert len(profiled) > 1


def test_what_deciding_costs_is_told_apart() -> None:
    before = CountedWork(1, {"a": 100.0, "b": 50.0, "idle": 0.0})
    after = CountedWork(1, {"a": 40.0, "score": 5.0})

    assert after.left_of(before) == {"a": 0.4, "b": 0.0}
    assert after.added_to(before) == 5.0
    assert after.share_of(before) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("operator", "attributes", "inputs", "output", "expected"),
    [
        ("MatMul", {}, [(2, 5, 3), (3, 7)], (2, 5, 7), 2 * 2 * 5 * 7 * 3),
        ("Gemm", {"transA": 1}, [(3, 5), (3, 7)], (5, 7), 2 * 5 * 7 * 3),
        ("Conv", {"group": 2}, [(1, 4, 8, 8), (6, 2, 3, 3)], (1, 6, 6, 6), 2 * 6 * 36 * 18),
        ("Reshape", {}, [(2, 3)], (6,), 0),
    ],
)
def test_operations_of_a_node_at_given_shapes(
    operator: str,
    attributes: dict[str, int],
    inputs: list[tuple[int, ...]],
    output: tuple[int, ...],
    expected: int,
) -> None:
    values = [ir.Value(name=f"i{index}") for index in range(len(inputs))]
    assert flops_of(ir.node(operator, values, attributes), inputs, [output]) == expected


def test_no_samples_and_samples_that_do_not_fit_are_refused(exits: ir.Model) -> None:
    with pytest.raises(DataError, match="found 0 in batches of 1"):
        counted_work(exits, Rows(np.zeros((0, 4), np.float32)))
    with pytest.raises(VerificationError, match="cannot count"):
        counted_work(exits, Rows(np.zeros((2, 5), np.float32)))
