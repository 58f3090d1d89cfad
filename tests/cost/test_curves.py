"""Curves: interpolation over steps that are known exactly, and what is measured next."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.cost.curves import BEYOND, Curve, Steps, learn_steps, refine
from adapass.cost.model import Cost, Trust

Shape = Callable[[int], float]


def measured(seconds: float) -> Cost:
    return Cost(seconds, Trust.MEASURED)


def stairs(size: int) -> float:
    """10 a tile of 16, the first one in proportion."""
    return float(size) * 10 / 16 if size <= 16 else 10.0 * math.ceil(size / 16)


def line(size: int) -> float:
    return 5.0 + size


def curve_of(shape: Shape, sizes: tuple[int, ...], steps: Steps | None = None) -> Curve:
    points = {size: measured(float(shape(size))) for size in sizes}
    return Curve(points) if steps is None else Curve(points, steps)


class Meter:
    """Counts what is measured."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.sizes: list[int] = []

    def __call__(self, size: int) -> Cost:
        self.sizes.append(size)
        return measured(float(self.shape(size)))


class TestSteps:
    def test_a_step_is_learned_from_a_point_behind_an_edge(self) -> None:
        steps = learn_steps([curve_of(stairs, (16, 32, 36, 48, 64))], tile=16, grains=[4])

        assert steps.share == 1.0

    def test_a_line_stays_a_line(self) -> None:
        steps = learn_steps([curve_of(line, (16, 32, 36, 48, 64))], tile=16, grains=[4])

        assert steps.share == 0.0

    def test_without_a_point_behind_an_edge_nothing_is_believed(self) -> None:
        assert learn_steps([curve_of(stairs, (16, 32, 48, 64))], tile=16, grains=[4]).share == 0.0

    def test_what_one_layer_shows_holds_for_another_of_its_kind(self) -> None:
        shown, asked = curve_of(stairs, (16, 32, 36, 48, 64)), curve_of(stairs, (16, 32, 48))

        steps = learn_steps([shown, asked], tile=16, grains=[4])

        assert Curve(asked.points, steps).at(40).seconds == pytest.approx(stairs(40))
        assert asked.at(40).seconds == pytest.approx(25.0)

    def test_sizes_on_one_step_take_the_nearest_measured(self) -> None:
        curve = Curve({16: measured(1.0), 24: measured(2.0), 32: measured(2.2)}, Steps(16, 1.0))

        assert curve.at(20).seconds == 2.0
        assert curve.at(30).seconds == 2.2

    def test_within_the_first_tile_there_is_no_step(self) -> None:
        curve = Curve({4: measured(1.0), 12: measured(3.0), 16: measured(3.5)}, Steps(16, 1.0))

        assert curve.at(8).seconds == pytest.approx(2.0)

    def test_odd_sizes_cost_the_learned_factor(self) -> None:
        points = {size: measured(line(size) * (1.5 if size % 4 else 1.0)) for size in (4, 8, 12, 16, 6, 14)}
        steps = learn_steps([Curve(points)], tile=16, grains=[4])

        curve = Curve(points, steps)

        assert steps.penalty == pytest.approx(1.5)
        assert curve.at(10).seconds == pytest.approx(1.5 * line(10))

    def test_odd_sizes_are_never_taken_for_faster(self) -> None:
        points = {size: measured(line(size) * (0.5 if size % 4 else 1.0)) for size in (4, 8, 12, 16, 6)}

        assert learn_steps([Curve(points)], tile=16, grains=[4]).penalty == 1.0


class TestInterval:
    def test_a_measured_size_has_noise_alone(self) -> None:
        assert curve_of(line, (8, 16)).estimate(8, noise=0.02).spread == pytest.approx(0.02)

    def test_is_widest_in_the_middle_of_a_gap(self) -> None:
        curve = curve_of(line, (0 + 8, 72))

        widths = [curve.estimate(size).high - curve.estimate(size).low for size in (12, 40, 68)]

        assert widths[1] > widths[0]
        assert widths[1] > widths[2]

    def test_holds_the_truth_of_a_monotone_shape(self) -> None:
        curve = curve_of(stairs, (16, 64))

        for size in range(17, 64):
            found = curve.estimate(size)
            assert found.low <= stairs(size) * 1.35
            assert found.trust is Trust.MODEL

    def test_outside_of_all_grows_with_the_distance(self) -> None:
        curve = curve_of(line, (8, 16))

        assert curve.estimate(32, noise=0.0).spread == pytest.approx(BEYOND)
        assert curve.estimate(64, noise=0.0).spread == pytest.approx(2 * BEYOND)

    @given(sizes=st.sets(st.integers(1, 200), min_size=2, max_size=6), asked=st.integers(1, 200))
    def test_a_line_is_never_outside_its_interval(self, sizes: set[int], asked: int) -> None:
        if not min(sizes) <= asked <= max(sizes):
            return
        found = curve_of(line, tuple(sizes)).estimate(asked)

        assert found.low <= line(asked) + 1e-9
        assert line(asked) <= found.high + 1e-9


class TestRefine:
    def test_a_line_is_settled_with_one_point(self) -> None:
        meter = Meter(line)

        curve = refine(curve_of(line, (1, 65)), meter, tolerance=0.05, most=9)

        assert meter.sizes == [33]
        assert curve.estimate(50, noise=0.0).spread < 0.05

    def test_both_sides_of_an_edge_are_measured_where_the_line_was_wrong(self) -> None:
        meter = Meter(stairs)

        refine(curve_of(stairs, (16, 20, 80)), meter, tolerance=0.02, most=5, tile=16, candidates=(36,))

        assert meter.sizes == [36, 32]

    def test_stops_at_the_number_of_measurements(self) -> None:
        meter = Meter(lambda size: size**3)

        curve = refine(curve_of(lambda size: size**3, (1, 64)), meter, tolerance=0.001, most=5)

        assert len(curve.points) == 5

    def test_measures_nothing_that_is_known_well_enough(self) -> None:
        meter = Meter(line)

        refine(curve_of(lambda _: 5.0, (1, 64)), meter, tolerance=0.01, most=9)

        assert meter.sizes == []

    def test_takes_candidates_only(self) -> None:
        meter = Meter(lambda size: size**2)

        refine(curve_of(lambda size: size**2, (1, 64)), meter, tolerance=0.001, most=9, candidates=(3, 7))

        assert sorted(meter.sizes) == [3, 7]


def test_odd_sizes_are_read_between_odd_sizes() -> None:
    """Where kernels want multiples of 16, 20 channels lie between 12 and 28, not between 16 and 32."""
    curve = Curve(
        {n: measured(0.1 * n * (1 if n % 16 == 0 else 2)) for n in (12, 16, 28, 32)}, Steps(1, 0.0, 16, 2.0)
    )

    assert curve.at(20).seconds == pytest.approx(4.0)
    assert curve.at(24).seconds == pytest.approx(4.8)


def test_the_grain_is_learned() -> None:
    sizes = (8, 12, 16, 20, 24, 32, 36, 48, 56, 64)
    points = {n: measured(0.1 * n * (1 if n % 16 == 0 else 2)) for n in sizes}
    fours = {n: measured(0.1 * n * (1 if n % 4 == 0 else 2)) for n in (*sizes, 18, 30, 50)}

    assert learn_steps([Curve(points)], tile=1, grains=[4, 8, 16]).grain == 16
    assert learn_steps([Curve(fours)], tile=1, grains=[4, 8, 16]).grain == 4
