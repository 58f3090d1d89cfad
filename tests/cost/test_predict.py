"""Predictions on a device whose latencies are known: exact sums, reach, compaction, few measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.cost.calibrate import NOT_CALIBRATED
from adapass.cost.expected import rows_reaching
from adapass.cost.model import Trust
from adapass.cost.pieces import lay_out
from adapass.cost.predict import BASE_SPREAD, Predictor, tile_of
from adapass.errors import UsageError
from adapass.graph.edit import constant_array
from adapass.target import load_target
from adapass.testing.known_device import (
    CALL,
    ENTER,
    NODE,
    WEIGHT,
    WIDTH,
    KnownDevice,
    Network,
    cost_of,
    predictor_on,
)


@pytest.fixture
def predictor(device: KnownDevice, tmp_path: Path) -> Predictor:
    return predictor_on(device, tmp_path)


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_a_model_costs_the_sum_of_its_pieces_with_one_call(predictor: Predictor, batch: int) -> None:
    model = Network((16, 16, 24, 16)).build()

    found = predictor.estimate(model, batch=batch)

    assert found.seconds == pytest.approx(cost_of(model, batch))
    assert found.low <= cost_of(model, batch) <= found.high
    assert found.trust is Trust.MEASURED


def test_equal_layers_are_measured_once(predictor: Predictor, device: KnownDevice) -> None:
    predictor.estimate(Network((16,) * 3).build())
    few = len(device.built)

    predictor.estimate(Network((16,) * 30).build())

    assert len(device.built) == few


def test_nothing_is_measured_again_by_another_process(
    predictor: Predictor, device: KnownDevice, tmp_path: Path
) -> None:
    model = Network((16, 16)).build()
    first = predictor.estimate(model)
    built = len(device.built)

    again = predictor_on(device, tmp_path).estimate(model)

    assert again.seconds == first.seconds
    assert len(device.built) == built


def test_the_whole_model_is_never_built(predictor: Predictor, device: KnownDevice) -> None:
    model = Network((16, 16, 16), exits=1).build()

    predictor.estimate(model, taken=np.array([0, 1]))

    largest = max(products(built) for built in device.built)
    assert largest < products(model)


def products(model: ir.Model) -> int:
    return sum(node.op_type == "MatMul" for node in model.graph)


class TestExits:
    TAKEN = np.array([0] * 40 + [1] * 20 + [2] * 40)
    NETWORK = Network((16, 16, 16), exits=2)

    def by_hand(self, reach: tuple[float, ...]) -> float:
        layout = lay_out(self.NETWORK.build())
        total = 0.0
        for index, (section, share) in enumerate(zip(layout.sections, reach, strict=True)):
            alone = cost_of(layout.part(section.pieces), 1)
            # The decision of a tiny model are two operations.
            total += share * (alone + (ENTER + 2 * NODE - CALL if index else 0.0))
        return total

    def test_sections_count_by_who_reaches_them(self, predictor: Predictor) -> None:
        found = predictor.estimate(self.NETWORK.build(), taken=self.TAKEN)

        assert found.seconds == pytest.approx(self.by_hand((1.0, 0.6, 0.4)))
        assert found.low <= self.by_hand((1.0, 0.6, 0.4)) <= found.high

    def test_without_a_trace_nobody_leaves(self, predictor: Predictor) -> None:
        model = self.NETWORK.build()

        everything = predictor.estimate(model)

        assert everything.seconds > predictor.estimate(model, taken=self.TAKEN).seconds
        assert everything.seconds == predictor.estimate(model, taken=np.full(5, 2)).seconds

    def test_sections_nobody_reaches_cost_nothing(self, predictor: Predictor) -> None:
        found = predictor.estimate(self.NETWORK.build(), taken=np.zeros(10, np.int64))

        assert found.seconds == pytest.approx(self.by_hand((1.0, 0.0, 0.0)))

    def test_masked_compute_saves_nothing(self, predictor: Predictor) -> None:
        model = self.NETWORK.build()
        everything = predictor.estimate(model).seconds

        predictor.exit_options = {"lowering": "masked"}
        found = predictor.estimate(model, taken=self.TAKEN)

        assert found.seconds == pytest.approx(everything)

    def test_few_samples_in_the_trace_widen_the_interval(self, predictor: Predictor) -> None:
        model = self.NETWORK.build()

        few = predictor.estimate(model, taken=self.TAKEN[::10])
        many = predictor.estimate(model, taken=np.tile(self.TAKEN, 100))

        assert few.spread > 1.5 * many.spread

    def test_who_leaves_a_batch_saves_as_in_a_simulation(self, predictor: Predictor) -> None:
        model, batch = self.NETWORK.build(), 8
        layout = lay_out(model)
        parts = [layout.part(section.pieces) for section in layout.sections]
        random = np.random.default_rng(0)
        totals = np.zeros(4000)
        for number in range(len(totals)):
            taken = random.choice(self.TAKEN, batch)
            for index, part in enumerate(parts):
                left = int((taken >= index).sum())
                totals[number] += cost_of(part, left) - (CALL if index else 0.0) if left else 0.0

        found = predictor.estimate(model, taken=self.TAKEN, batch=batch)
        entering = sum(part.seconds for part in found.parts if part.key.startswith("exit"))
        calls = CALL * sum(1 - (1 - share) ** batch for share in (0.6, 0.4))

        assert found.seconds - entering - calls == pytest.approx(totals.mean(), rel=0.01)


class TestSizes:
    MEASURED = (8, 16, 32, 64)

    def learned(self, predictor: Predictor) -> Predictor:
        for hidden in self.MEASURED:
            predictor.estimate(Network((hidden,) * 2).build())
        return predictor

    def test_a_size_between_measured_ones_is_interpolated(
        self, predictor: Predictor, device: KnownDevice
    ) -> None:
        self.learned(predictor)
        built = len(device.built)
        model = Network((24, 24)).build()

        found = predictor.estimate(model)

        assert len(device.built) == built
        assert found.seconds == pytest.approx(cost_of(model, 1))
        assert found.trust is Trust.MODEL

    def test_with_no_tolerance_it_is_measured(self, predictor: Predictor, device: KnownDevice) -> None:
        self.learned(predictor).tolerance = 0.0
        built = len(device.built)

        found = predictor.estimate(Network((24, 24)).build())

        assert len(device.built) > built
        assert found.trust is Trust.MEASURED

    def test_two_sizes_are_too_few(self, predictor: Predictor) -> None:
        for hidden in self.MEASURED[:2]:
            predictor.estimate(Network((hidden,) * 2).build())

        assert predictor.estimate(Network((12, 12)).build()).trust is Trust.MEASURED

    def test_what_may_not_be_measured_is_modelled(self, predictor: Predictor, device: KnownDevice) -> None:
        predictor.may_measure = lambda _: False

        found = predictor.estimate(Network((16, 16)).build())

        assert found.trust is Trust.MODEL
        assert all("MatMul" not in [node.op_type for node in built.graph] for built in device.built[:1])


def test_a_step_behind_a_tile_is_found(tmp_path: Path) -> None:
    def stairs(model: ir.Model, rows: int) -> float:
        arrays = (constant_array(v) for v in model.graph.initializers.values() if _is_second(v))
        tiles = sum(-(-len(array) // 16) for array in arrays if array is not None)
        return CALL + 1e-5 * rows * tiles

    predictor = predictor_on(KnownDevice(price=stairs), tmp_path)
    for hidden in (16, 32, 36, 48, 64):
        predictor.tolerance = 0.0
        predictor.estimate(Network((hidden,) * 2).build())
    predictor.tolerance = 1.0

    found = predictor.estimate(Network((40,) * 2).build())

    assert found.seconds == pytest.approx(CALL + 2 * 3e-5, rel=0.01)


def _is_second(value: ir.Value) -> bool:
    return (value.name or "").startswith("w_")


def test_what_neighbours_save_is_found_and_noise_is_not(tmp_path: Path) -> None:
    def coupled(share: float) -> float:
        def price(model: ir.Model, rows: int) -> float:
            blocks = sum(node.op_type == "Add" for node in model.graph)
            return cost_of(model, rows) * (1.0 - share * max(0, blocks - 1) / 2)

        model = Network((16,) * 3).build()
        found = predictor_on(KnownDevice(price=price), tmp_path / str(share)).estimate(model)
        return found.seconds / cost_of(model, 1)

    assert coupled(0.02) == pytest.approx(1.0)
    assert coupled(0.4) < 0.85


def test_layers_that_differ_in_two_sizes_are_no_siblings(predictor: Predictor) -> None:
    for hidden in TestSizes.MEASURED:
        predictor.estimate(Network((hidden,) * 2).build())
    layout = lay_out(Network((24, 24)).build())
    piece = layout.sections[0].pieces[1]
    other = replace(piece, sizes=(piece.sizes[0], piece.sizes[1], piece.sizes[2] + 1, *piece.sizes[3:]))

    assert predictor.prices(1).interpolated(piece, {1: 1.0}) is not None
    assert predictor.prices(1).interpolated(other, {1: 1.0}) is None


class TestAnchors:
    def test_correct_what_pieces_alone_do_not_show(self, tmp_path: Path) -> None:
        def crowded(model: ir.Model, rows: int) -> float:
            blocks = sum(node.op_type == "Add" for node in model.graph)
            return cost_of(model, rows) * (1.5 if blocks > 4 else 1.0)

        predictor = predictor_on(KnownDevice(price=crowded), tmp_path)
        model = Network((16,) * 6).build()
        before = predictor.estimate(model)

        anchors = predictor.anchor(model)
        after = predictor.estimate(model)

        assert [round(anchor.factor, 2) for anchor in anchors] == [1.0, 1.5]
        assert before.seconds == pytest.approx(cost_of(model, 1))
        assert after.seconds == pytest.approx(1.5 * cost_of(model, 1))
        assert after.low <= crowded(model, 1) <= after.high

    def test_hold_for_their_batch_size_only(self, predictor: Predictor) -> None:
        model = Network((16,) * 3).build()
        predictor.anchor(model, batch=4)

        anchored, other = predictor.estimate(model, batch=4), predictor.estimate(model, batch=2)

        assert anchored.spread < other.spread

    def test_refuse_models_with_exits(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match="must not have exits"):
            predictor.anchor(Network((16, 16), exits=1).build())


class TestSaving:
    def test_is_the_difference(self, predictor: Predictor) -> None:
        wide, narrow = Network((32,) * 6).build(), Network((32,) * 5 + (16,)).build()

        found = predictor.saving(wide, narrow)

        assert found.seconds == pytest.approx(cost_of(wide, 1) - cost_of(narrow, 1))
        assert found.seconds == pytest.approx(WEIGHT * 2 * 16 * WIDTH)

    def test_is_surer_than_the_two_estimates(self, predictor: Predictor) -> None:
        wide, narrow = Network((32,) * 6).build(), Network((32,) * 5 + (16,)).build()

        found = predictor.saving(wide, narrow)

        whole = predictor.estimate(wide)
        assert found.high - found.low < 0.7 * (whole.high - whole.low)

    def test_of_nothing_is_nothing(self, predictor: Predictor) -> None:
        model = Network((16, 16)).build()

        found = predictor.saving(model, model)

        assert (found.seconds, found.low, found.high) == (0.0, 0.0, 0.0)


def test_without_the_device_everything_is_modelled(tmp_path: Path) -> None:
    device = KnownDevice(present=False)

    found = predictor_on(device, tmp_path).estimate(
        Network((16, 16), exits=1).build(), taken=np.arange(400) % 2
    )

    assert device.built == []
    assert found.trust is Trust.MODEL
    assert 0 < found.low < found.seconds < found.high
    assert found.spread > BASE_SPREAD


class TestCalibration:
    MODELS = (Network((16, 24, 32)), Network((64, 48), exits=1))

    def test_of_measured_pieces_serves_where_nothing_can_be_measured(self, tmp_path: Path) -> None:
        device = KnownDevice()
        predictor_on(device, tmp_path).calibrate([network.build() for network in self.MODELS], batch=32)
        elsewhere = predictor_on(device, tmp_path)
        elsewhere.may_measure = lambda _: False
        model = Network((40, 40)).build()
        plain = elsewhere.estimate(model, batch=32)

        elsewhere.load_calibration()
        found = elsewhere.estimate(model, batch=32)

        truth = cost_of(model, 32)
        assert found.trust is Trust.MODEL
        assert abs(found.seconds - truth) < 0.5 * abs(plain.seconds - truth)
        assert found.low <= truth <= found.high

    def test_is_not_taken_from_another_machine(self, predictor: Predictor) -> None:
        predictor.calibrate([network.build() for network in self.MODELS])
        predictor.watch.machine = "another"

        assert predictor.load_calibration() is NOT_CALIBRATED


def test_another_batch_size_needs_feeds(predictor: Predictor) -> None:
    predictor.feeds_of = None

    with pytest.raises(UsageError, match="batches of 7"):
        predictor.estimate(Network((16,)).build(), batch=7)


def test_rows_reaching_are_binomial() -> None:
    rows = rows_reaching(8, 0.25)

    assert sum(rows.values()) == pytest.approx(1.0, abs=1e-4)
    assert sum(n * p for n, p in rows.items()) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(
    ("isa", "tile"), [(("avx2", "avx512f"), 16), (("avx2",), 8), (("asimd",), 4)], ids=["512", "256", "128"]
)
def test_tiles_follow_the_registers(isa: tuple[str, ...], tile: int) -> None:
    target = load_target("x86-64-vnni")

    assert tile_of(replace(target, arch={**target.arch, "isa": isa})) == tile


def test_a_piece_says_what_it_is_made_of(predictor: Predictor) -> None:
    found = predictor.estimate(Network((16, 16)).build())

    assert sum(part.seconds for part in found.parts) == pytest.approx(found.seconds)
    assert {"x_0", "x_1"} <= {part.name for part in found.parts}
