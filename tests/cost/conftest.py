"""A device whose latencies are known."""

from __future__ import annotations

import pytest

from adapass.testing.known_device import KnownDevice


@pytest.fixture
def device() -> KnownDevice:
    return KnownDevice()
