"""What every test gets: logging as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """The command line sets up the logger of the package; run inside a test, it must not keep it."""
    logger, disabled = logging.getLogger("adapass"), logging.root.manager.disable
    before = (list(logger.handlers), logger.propagate, logger.level)
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
    logging.disable(disabled)
    for name, known in logging.root.manager.loggerDict.items():
        if name.startswith("adapass") and isinstance(known, logging.Logger):
            known.disabled = False
