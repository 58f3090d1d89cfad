"""Scale and base of logarithmic codes."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.passes.quantize.logarithmic.codes import (
    Doubles,
    LogCodes,
    Reads,
    UniformCodes,
    search_log,
    search_uniform,
)

ROWS = 64


def attention(seed: int) -> tuple[Doubles, Doubles]:
    """Probabilities [64, 48], most of them small, and values [48, 8] that have something in common."""
    random = np.random.default_rng(seed)
    powers = np.exp(random.normal(scale=2.0, size=(ROWS, 48)))
    return powers / powers.sum(axis=1, keepdims=True), random.normal(loc=1.0, size=(48, 8))


def seen(*parts: tuple[Doubles, Doubles], rows_each: int = ROWS) -> Reads:
    found = Reads(rows_each)
    for left, right in parts:
        found.add(left, right)
    return found


@pytest.mark.parametrize("bits", [3, 4])
def test_a_searched_base_beats_two_and_equal_steps_on_new_rows(bits: int) -> None:
    found, new = seen(attention(0), attention(1)), seen(attention(2), attention(3))

    codes = (search_log(found, bits), search_log(found, bits, 2.0), search_uniform(found, bits))
    log, two, uniform = (new.error(each.rounded) for each in codes)

    assert log < 0.8 * uniform
    assert log < two


@pytest.mark.parametrize("bits", [3, 4])
def test_the_search_is_as_good_as_trying_every_base(bits: int) -> None:
    found = seen(attention(0))
    every = [
        LogCodes(found.largest * base**-step, base, 2**bits - 2)
        for base in (2.0 ** (q / 37) for q in range(2, 112))
        for step in (0.0, 0.25, 0.5, 0.75)
    ]

    best = min(found.error(codes.rounded) for codes in every)

    assert found.error(search_log(found, bits).rounded) <= 1.1 * best


def test_codes_number_as_many_as_their_bits_say_and_zero_is_one() -> None:
    left, right = attention(0)
    codes = search_log(seen((left, right)), 3)
    rounded = codes.rounded(np.concatenate([[0.0, 1e-30, 5.0], left.ravel()]))

    assert len(np.unique(rounded)) == 8
    assert rounded[0] == rounded[1] == 0.0
    assert rounded[2] == pytest.approx(codes.scale)


def test_keeps_some_rows_and_the_largest_of_all() -> None:
    left, right = attention(0)
    left[17, 3] = 0.99

    found = seen((left, right), rows_each=4)

    assert found.largest == 0.99
    assert found.pairs[0][0].shape == (4, 48)


def test_nothing_seen_gives_codes_that_work() -> None:
    assert search_log(Reads(1), 4) == LogCodes(1.0, 2.0, 14)
    assert search_uniform(Reads(1), 4) == UniformCodes(1.0, 15)
