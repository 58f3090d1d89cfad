"""Anchors, savings and calibration of predictions, on a device whose latencies are known."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from adapass.cost.calibrate import NOT_CALIBRATED
from adapass.cost.model import Trust
from adapass.cost.predict import Predictor
from adapass.errors import UsageError
from adapass.testing.known_device import (
    WEIGHT,
    WIDTH,
    KnownDevice,
    Network,
    cost_of,
    predictor_on,
)


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
