"""Coded positions and signs come back; what nobody coded is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.deltas.rice import Places, decode, encode, pack_signs, unpack_signs
from adapass.errors import ArtifactError


@given(st.integers(0, 5000), st.data())
def test_positions_come_back(size: int, data: st.DataObject) -> None:
    found = data.draw(st.sets(st.integers(0, max(size - 1, 0)), max_size=size)) if size else set[int]()
    positions = np.array(sorted(found), np.int64)

    assert np.array_equal(decode(encode(positions, size), size), positions)


@given(st.lists(st.booleans()))
def test_signs_come_back(signs: list[bool]) -> None:
    array = np.array(signs, np.bool_)

    assert np.array_equal(unpack_signs(pack_signs(array), len(signs)), array)


@pytest.mark.parametrize("density", [0.005, 0.05, 0.2, 0.5])
def test_random_positions_cost_little_more_than_their_entropy(density: float) -> None:
    size = 200_000
    positions = np.flatnonzero(np.random.default_rng(0).random(size) < density)
    entropy_bits = -size * (density * math.log2(density) + (1 - density) * math.log2(1 - density))

    places = encode(positions, size)

    assert 8 * (len(places.high) + len(places.low)) < 1.06 * entropy_bits


def test_all_positions_cost_one_bit_each() -> None:
    places = encode(np.arange(800), 800)

    assert (len(places.high), len(places.low), places.low_bits) == (100, 0, 0)


@pytest.mark.parametrize("positions", [[3, 3], [4, 2], [-1, 2], [10]])
def test_positions_must_rise_inside(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        encode(np.array(positions, np.int64), 10)


@given(
    st.integers(-1, 60),
    st.integers(-1, 30),
    st.binary(max_size=20),
    st.binary(max_size=20),
    st.integers(0, 50),
)
def test_any_bytes_are_refused_or_give_rising_positions(
    count: int, low_bits: int, high: bytes, low: bytes, size: int
) -> None:
    try:
        found = decode(Places(count, low_bits, high, low), size)
    except ArtifactError:
        return
    assert len(found) == count
    assert np.all(np.diff(found, prepend=-1) > 0)
    assert not found.size or found[-1] < size


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (Places(11, 0, b"\0\0", b""), "11 positions of 0 low bits"),
        (Places(2, 25, b"\0", b"\0" * 7), "2 positions of 25 low bits"),
        (Places(2, 0, b"\0" * 100, b""), "100 and 0 bytes"),
        (Places(2, 2, b"\0", b""), "exactly 1 belong"),
        (Places(2, 0, b"\xff", b""), "0 positions were found, 2 expected"),
        (Places(1, 4, b"\0", b"\xf0"), "position 15 was found, below 10"),
    ],
)
def test_damaged_positions_are_refused(places: Places, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        decode(places, 10)


def test_too_few_signs_are_refused() -> None:
    with pytest.raises(ArtifactError, match="1 bytes of signs were found, 2 expected"):
        unpack_signs(b"\0", 9)
