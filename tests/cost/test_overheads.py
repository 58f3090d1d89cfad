"""The price of leaving: tiny models that run, and slopes over the number of exits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Feeds
from adapass.cost.model import Cost, Trust
from adapass.cost.overheads import NARROW, empty_model, measure_overhead, tiny_feed, tiny_model, width_for
from adapass.execution import Session
from adapass.lowering.branches import lower_to_if
from adapass.ops import EXIT_INDEX, read_exits


@pytest.mark.parametrize("exits", [1, 4])
def test_one_row_leaves_at_each_exit(exits: int) -> None:
    model = tiny_model(exits, 8, NARROW)

    taken = Session(lower_to_if(model)).run(tiny_feed(8, NARROW))[EXIT_INDEX]

    assert sorted(taken.tolist()) == [*range(exits), *[exits] * (8 - exits)]


def test_a_single_row_never_leaves() -> None:
    taken = Session(tiny_model(4, 1, NARROW)).run(tiny_feed(1, NARROW))[EXIT_INDEX]

    assert taken.tolist() == [4]


def test_the_empty_model_runs() -> None:
    (found,) = Session(empty_model(3)).run(tiny_feed(3, NARROW)).values()

    np.testing.assert_array_equal(found, tiny_feed(3, NARROW)["x"])


def test_leaving_costs_what_the_exits_add() -> None:
    def measure(model: ir.Model, feed: Feeds, leaves: bool) -> Cost:
        steps = sum(node.op_type == "Add" for node in model.graph)
        assert len(read_exits(model)) == (steps if leaves else 0)
        return Cost(1e-5 + steps * (1e-9 * feed["x"].nbytes + 2e-5 * leaves), Trust.MEASURED)

    assert measure_overhead(measure, batch=8, width=64) == pytest.approx(2e-5)


def test_noise_never_makes_leaving_cheaper_than_free() -> None:
    found = measure_overhead(
        lambda model, _, leaves: Cost(1.0 / len(model.graph) if leaves else 1.0, Trust.MEASURED), 1, NARROW
    )

    assert found == 0.0


@pytest.mark.parametrize(
    ("carried", "width"), [(0, NARROW), (65536, 16384), (65540, 32768), (1 << 40, 1 << 20)]
)
def test_widths_are_powers_of_two(carried: float, width: int) -> None:
    assert width_for(carried) == width
