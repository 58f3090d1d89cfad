"""Predictions of models with exits, on a device whose latencies are known: reach and compaction."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.cost.expected import rows_reaching
from adapass.cost.pieces import lay_out
from adapass.cost.predict import Predictor
from adapass.testing.known_device import (
    CALL,
    ENTER,
    NODE,
    Network,
    cost_of,
)


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


def test_rows_reaching_are_binomial() -> None:
    rows = rows_reaching(8, 0.25)

    assert sum(rows.values()) == pytest.approx(1.0, abs=1e-4)
    assert sum(n * p for n, p in rows.items()) == pytest.approx(2.0, abs=1e-3)
