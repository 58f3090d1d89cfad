"""Predictions on a device whose latencies are known: exact sums, few measurements, sizes in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.cost.model import Trust
from adapass.cost.pieces import lay_out
from adapass.cost.predict import BASE_SPREAD, Predictor, tile_of
from adapass.errors import UsageError
from adapass.graph.edit import constant_array
from adapass.target import load_target
from adapass.testing.known_device import (
    CALL,
    KnownDevice,
    Network,
    cost_of,
    predictor_on,
)


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


def test_without_the_device_everything_is_modelled(tmp_path: Path) -> None:
    device = KnownDevice(present=False)

    found = predictor_on(device, tmp_path).estimate(
        Network((16, 16), exits=1).build(), taken=np.arange(400) % 2
    )

    assert device.built == []
    assert found.trust is Trust.MODEL
    assert 0 < found.low < found.seconds < found.high
    assert found.spread > BASE_SPREAD


def test_another_batch_size_needs_feeds(predictor: Predictor) -> None:
    predictor.feeds_of = None

    with pytest.raises(UsageError, match="batches of 7"):
        predictor.estimate(Network((16,)).build(), batch=7)


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
