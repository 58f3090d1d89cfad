"""merge-casts: one Cast where the first of two keeps every number."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.passes.clean.merge_casts import MergeCasts


def test_skips_a_widening_cast(fires: Any) -> None:
    fires(
        MergeCasts(),
        "g (float16[N] x) => (double[N] y) { f = Cast<to = 1>(x) y = Cast<to = 11>(f) }",
        "g (float16[N] x) => (double[N] y) { y = Cast<to = 11>(x) }",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            "g (float[N] x) => (float[N] y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }",
            "the first cast may change numbers",
            id="through-half-precision",
        ),
        pytest.param(
            "g (double[N] x) => (float16[N] y) { f = Cast<to = 1>(x) y = Cast<to = 10>(f) }",
            "the first cast may change numbers",
            id="rounded-twice",
        ),
        pytest.param(
            "g (float[N] x) => (double[N] y) { y = Cast<to = 11>(x) }",
            "no other cast comes before",
            id="alone",
        ),
    ],
)
def test_leaves_alone_and_says_why(text: str, reason: str, declines: Any) -> None:
    declines(MergeCasts(), text, reason)
