"""A device whose latencies are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapass.cost.predict import Predictor
from adapass.testing.known_device import KnownDevice, predictor_on


@pytest.fixture
def device() -> KnownDevice:
    return KnownDevice()


@pytest.fixture
def predictor(device: KnownDevice, tmp_path: Path) -> Predictor:
    return predictor_on(device, tmp_path)
