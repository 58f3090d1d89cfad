"""The stopwatch: whole models, pieces and groups, measured once by content, modelled without the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapass.cost.model import Trust
from adapass.search.stopwatch import Stopwatch
from adapass.testing.known_device import (
    CALL,
    NODE,
    WEIGHT,
    WIDTH,
    KnownDevice,
    Network,
    cost_of,
    predictor_on,
)

OPTIONS = {"lowering": "none"}


def watch_on(device: KnownDevice, folder: Path) -> Stopwatch:
    return predictor_on(device, folder).watch


def test_a_whole_model_takes_what_a_call_takes(tmp_path: Path) -> None:
    model = Network((16, 16)).build()

    found = watch_on(KnownDevice(), tmp_path).seconds(model, OPTIONS)

    assert found.seconds == pytest.approx(cost_of(model, 1))
    assert found.trust is Trust.MEASURED


def test_a_piece_is_measured_alone(tmp_path: Path) -> None:
    found = watch_on(KnownDevice(), tmp_path).piece(Network((16,)).build(), ["stemmed"], ["u_0"], OPTIONS)

    assert found.seconds == pytest.approx(CALL + NODE + WEIGHT * WIDTH * 16)


def test_models_of_one_structure_are_built_once(tmp_path: Path) -> None:
    device = KnownDevice()
    watch = watch_on(device, tmp_path)

    first, second = (watch.piece(Network((16, 16)).build(), [f"x_{0}"], ["u_1"], OPTIONS) for _ in range(2))

    assert first == second
    assert len(device.built) == 1


def test_a_region_is_made_only_when_it_is_unknown(tmp_path: Path) -> None:
    device, model = KnownDevice(), Network((16,)).build()
    watch = watch_on(device, tmp_path)
    watch.region("known", lambda: model, watch.feeds, OPTIONS)

    again = watch.region("known", lambda: pytest.fail("built again"), watch.feeds, OPTIONS)

    assert again.seconds == pytest.approx(cost_of(model, 1))


def test_options_and_shapes_are_part_of_the_content(tmp_path: Path) -> None:
    device, model = KnownDevice(), Network((16,)).build()
    watch = watch_on(device, tmp_path)
    more = [{"x": np.zeros((4, WIDTH), np.float32)}]

    watch.region("same", lambda: model, watch.feeds, OPTIONS)
    watch.region("same", lambda: model, watch.feeds, {"lowering": "none", "threads": 1})
    watch.region("same", lambda: model, more, OPTIONS)

    assert len(device.built) == 3


def test_a_group_is_timed_together_and_remembered(tmp_path: Path) -> None:
    device = KnownDevice()
    watch = watch_on(device, tmp_path)
    models = {"one": Network((16,)).build(), "two": Network((32,)).build()}

    found = watch.together("pair", lambda: models, watch.feeds, OPTIONS)
    again = watch.together("pair", dict, watch.feeds, OPTIONS)

    assert found == again
    assert {name: pytest.approx(cost_of(model, 1)) for name, model in models.items()} == found


def test_without_the_device_numbers_are_modelled(tmp_path: Path) -> None:
    device = KnownDevice(present=False)
    watch = watch_on(device, tmp_path)

    found = watch.seconds(Network((16,)).build(), OPTIONS)

    assert not watch.measures
    assert device.built == []
    assert found.trust is Trust.MODEL
