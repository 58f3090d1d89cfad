"""Feeds like those that passed a check are not checked again; all others are."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.artifact import signatures
from adapass.artifact.signatures import Signatures
from adapass.budgeted import Array
from adapass.codegen.feeds import FeedCheck
from adapass.codegen.inputs import Input
from adapass.errors import DataError

GOOD = {"x": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("feeds", "known"),
    [
        ({"x": np.ones((2, 3), np.float32)}, True),
        ({"x": np.zeros((2, 4), np.float32)}, False),
        ({"x": np.zeros((2, 3), np.float64)}, False),
        ({"x": np.zeros((2, 3), ">f4")}, False),
        ({"y": np.zeros((2, 3), np.float32)}, False),
        ({}, False),
        ({**GOOD, "y": np.zeros(1, np.float32)}, False),
    ],
)
def test_like_means_names_types_and_shapes(feeds: dict[str, Array], known: bool) -> None:
    passed = Signatures()
    passed.add(GOOD)

    assert passed.has(feeds) is known


def test_what_is_no_array_is_checked_every_time() -> None:
    passed = Signatures()
    feeds: dict[str, Array] = {"x": [[0.0] * 3] * 2}  # type: ignore[dict-item]  # pyright: ignore[reportAssignmentType]
    passed.add(feeds)

    assert not passed.has(feeds)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MOST", 3)
    passed, feeds = Signatures(), [{"x": np.zeros(n)} for n in range(5)]
    for each in feeds:
        passed.add(each)

    assert [passed.has(each) for each in feeds] == [False, False, False, True, True]


def test_wrong_feeds_are_refused_after_right_ones() -> None:
    check = FeedCheck([Input(name="x", dtype="float32", shape=("batch", 3), optional=False)])

    for _ in range(2):
        assert list(check(GOOD)) == ["x"]
        with pytest.raises(DataError, match="axis 1 has 4 entries"):
            check({"x": np.zeros((2, 4), np.float32)})
        with pytest.raises(DataError, match="input 'x' is float64"):
            check({"x": np.zeros((2, 3))})
        with pytest.raises(DataError, match="'x' is missing"):
            check({})
