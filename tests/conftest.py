"""What every test gets: a logger as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """The command line sets up the logger of the package; run in a test, it must not keep it."""
    logger = logging.getLogger("adapass")
    before = (list(logger.handlers), logger.propagate, logger.level, logger.disabled)
    yield
    logger.handlers[:], logger.propagate, logger.disabled = before[0], before[1], before[3]
    logger.setLevel(before[2])
