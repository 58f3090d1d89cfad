"""What rounding may do to a head with large weights that nearly cancel is no mistake."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import VerificationError
from adapass.passes.exits.check_exits import compare


def test_an_error_within_the_slack_of_a_head_passes() -> None:
    expected = np.array([[1.0, -1.0]])

    compare("output", expected + 0.01, expected, slack=0.02)
    with pytest.raises(VerificationError, match=r"output is off by 0\.03"):
        compare("output", expected + 0.03, expected, slack=0.02)


def test_without_slack_a_small_error_is_told() -> None:
    expected = np.array([[1.0, -1.0]])

    with pytest.raises(VerificationError, match=r"off by 0\.01"):
        compare("output", expected + 0.01, expected)
