"""Executors that several tests use: starting processes is what these tests spend their time on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adapass.executor import LocalProcesses


@pytest.fixture(scope="package")
def two() -> Iterator[LocalProcesses]:
    """Two processes, kept for the tests that leave them as they were, or replaced."""
    with LocalProcesses(2) as executor:
        yield executor
