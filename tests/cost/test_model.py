"""Costs, their trust, the roofline, and the choice between models."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.cost.model import FREE, Cost, FirstThatKnows, Trust, Work, total
from adapass.cost.roofline import Roofline
from adapass.target import Target, load_target, parse_target

TARGET = parse_target(
    """
    schema = 1
    name = "round"
    kind = "cpu"
    description = "round numbers"
    [arch]
    family = "x86_64"
    cores = 4
    [compute]
    f32 = 1000.0
    i8 = 4000.0
    [memory]
    dram_bytes = 1e9
    dram_bytes_per_second = 100.0
    core_dram_bytes_per_second = 40.0
    [overhead]
    launch_seconds = 0.5
    [source]
    "*" = "made up for this test"
    """,
    "round.toml",
)
PERFECT = Roofline(efficiency=1.0)


def work(flops: int = 0, read: int = 0, written: int = 0, dtype: str = "f32") -> Work:
    return Work("MatMul", dtype, flops, read, written)


@pytest.mark.parametrize(
    ("done", "seconds", "trust"),
    [
        pytest.param(work(flops=2000, read=10), 2.5, Trust.MODEL, id="computing-decides"),
        pytest.param(work(flops=10, read=200, written=100), 3.5, Trust.MODEL, id="moving-decides"),
        pytest.param(work(flops=2000, dtype="i8"), 1.0, Trust.MODEL, id="a-rate-of-its-own"),
        pytest.param(work(flops=2000, dtype="f16"), 2.5, Trust.GUESS, id="unknown-rate-that-matters"),
        pytest.param(
            work(flops=10, read=100, dtype="i64"), 1.5, Trust.MODEL, id="unknown-rate-that-does-not"
        ),
        pytest.param(work(), 0.0, Trust.MEASURED, id="nothing-to-do-is-free"),
    ],
)
def test_the_roofline_takes_the_longer_and_a_launch(done: Work, seconds: float, trust: Trust) -> None:
    assert PERFECT.price(done, TARGET) == Cost(seconds, trust)


def test_efficiency_slows_computing_only() -> None:
    half = Roofline(efficiency=0.5)

    assert half.price(work(flops=1000), TARGET).seconds == 2.5
    assert half.price(work(read=100), TARGET).seconds == 1.5


def test_fewer_threads_are_slower() -> None:
    assert PERFECT.price(work(flops=1000), TARGET, 1).seconds == 4.5
    assert PERFECT.price(work(read=80), TARGET, 1).seconds == 2.5
    assert PERFECT.price(work(read=100), TARGET, 4).seconds == 1.5


def test_operations_in_a_row_add_up() -> None:
    cost = PERFECT.price_all([work(flops=1000), work(read=100), work()], TARGET)

    assert cost == Cost(3.0, Trust.MODEL)


def test_nothing_at_all_is_still_only_modelled() -> None:
    assert PERFECT.price_all([], TARGET) == Cost(0.0, Trust.MODEL)


@given(
    flops=st.integers(1, 10**12),
    moved=st.integers(1, 10**9),
    more=st.integers(1, 10**12),
    name=st.sampled_from(["x86-64-generic", "x86-64-vnni", "aarch64-generic", "cuda-h200", "cuda-sm80"]),
)
def test_more_work_never_costs_less(flops: int, moved: int, more: int, name: str) -> None:
    target: Target = load_target(name)
    less = Roofline().price(work(flops, moved), target).seconds

    assert Roofline().price(work(flops + more, moved), target).seconds >= less
    assert Roofline().price(work(flops, moved + more), target).seconds >= less
    assert less > target.launch_seconds


def test_costs_add_and_scale_with_the_worst_trust() -> None:
    assert Cost(1.0, Trust.MEASURED) + Cost(2.0, Trust.GUESS) == Cost(3.0, Trust.GUESS)
    assert Cost(2.0, Trust.MODEL) * 0.25 == Cost(0.5, Trust.MODEL)
    assert FREE + Cost(1.0, Trust.MEASURED) == Cost(1.0, Trust.MEASURED)


@dataclass(frozen=True)
class Knows:
    """Prices one operator and nothing else."""

    op: str
    cost: Cost

    def price(self, work: Work, target: Target, threads: int | None = None) -> Cost | None:
        del target, threads
        return self.cost if work.op == self.op else None


def test_the_first_model_that_knows_answers() -> None:
    table = Knows("MatMul", Cost(7.0, Trust.MEASURED))
    model = FirstThatKnows((table, PERFECT))

    assert model.price(work(flops=1000), TARGET) == Cost(7.0, Trust.MEASURED)
    assert model.price(Work("Add", "f32", 1000, 0, 0), TARGET) == Cost(1.5, Trust.MODEL)


def test_what_nobody_can_price_is_listed_not_guessed() -> None:
    table = Knows("MatMul", Cost(7.0, Trust.MEASURED))
    unknown = Work("Add", "f32", 1, 1, 1)

    assert total(table, [work(), unknown, work()], TARGET) == (Cost(14.0, Trust.MEASURED), (unknown,))
    assert FirstThatKnows((table,)).price(unknown, TARGET) is None
