"""One adaptive artifact for all tests of a file."""

from __future__ import annotations

from typing import cast

import pytest

from tests.driver.served import Served, serve


@pytest.fixture(scope="module", params=["if", "staged"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """One file with branches, or one file a stage; nobody may change it."""
    return serve(tmp_path_factory.mktemp("served"), variant=cast("str", request.param))
