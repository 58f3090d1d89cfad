"""Positions and signs of few numbers among many, in bits.

    positions   gaps between them, Golomb-Rice coded: the high part of a gap in unary, its low k bits plain
    signs       one bit each

High and low parts lie in streams of their own, so that both are read and written without a loop over codes.
Gaps of numbers kept at random are geometric, for which this code is within a few hundredths of the entropy
(Golomb 1966; Rice and Plaunt 1971).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.errors import ArtifactError

MAX_LOW_BITS = 24
Integers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Places:
    """Rising positions below ``size``, coded."""

    count: int
    low_bits: int
    high: bytes
    low: bytes


def encode(positions: Integers, size: int) -> Places:
    """Code rising positions in ``[0, size)``."""
    if np.any(np.diff(positions, prepend=-1, append=size) < 1):
        raise ValueError(f"positions must rise from 0 to below {size}")
    gaps = np.diff(positions, prepend=-1) - 1
    low_bits = min(range(MAX_LOW_BITS + 1), key=lambda k: gaps.size * k + int((gaps >> k).sum()))
    return Places(len(gaps), low_bits, _unary(gaps >> low_bits), _fixed(gaps, low_bits))


def decode(places: Places, size: int) -> Integers:
    """The positions again.

    Raises:
        ArtifactError: the streams do not hold ``count`` rising positions below ``size``.

    """
    count, low_bits = places.count, places.low_bits
    if not (0 <= count <= size and 0 <= low_bits <= MAX_LOW_BITS):
        raise ArtifactError(f"{count} positions of {low_bits} low bits were found for {size} numbers")
    most_bits = count + (size >> low_bits)
    most, exactly = -(-most_bits // 8), -(-count * low_bits // 8)
    if len(places.high) > most or len(places.low) != exactly:
        raise ArtifactError(
            f"{len(places.high)} and {len(places.low)} bytes of positions were found; at most {most} and "
            f"exactly {exactly} belong to {count} of {size} numbers"
        )
    gaps = (_from_unary(places.high, count) << low_bits) | _from_fixed(places.low, count, low_bits)
    positions = np.cumsum(gaps + 1) - 1
    if positions.size and int(positions[-1]) >= size:
        raise ArtifactError(f"position {int(positions[-1])} was found, below {size} expected")
    return np.asarray(positions, np.int64)


def pack_signs(signs: npt.NDArray[np.bool_]) -> bytes:
    """One bit a sign, ``True`` for minus."""
    return np.packbits(signs).tobytes()


def unpack_signs(data: bytes, count: int) -> npt.NDArray[np.bool_]:
    """The signs again.

    Raises:
        ArtifactError: the bytes are not those of ``count`` signs.

    """
    if len(data) != -(-count // 8):
        raise ArtifactError(f"{len(data)} bytes of signs were found, {-(-count // 8)} expected")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.bool_)


def _unary(numbers: Integers) -> bytes:
    """Each number as so many ones and a zero."""
    ends = np.cumsum(numbers + 1) - 1
    bits = np.ones(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
    bits[ends] = 0
    return np.packbits(bits).tobytes()


def _from_unary(data: bytes, count: int) -> Integers:
    bits: Bits = np.unpackbits(np.frombuffer(data, np.uint8))
    ends = np.flatnonzero(bits == 0)[:count]
    if len(ends) < count:
        raise ArtifactError(f"{len(ends)} positions were found, {count} expected; the delta is damaged")
    return np.asarray(np.diff(ends, prepend=-1) - 1, np.int64)


def _fixed(numbers: Integers, width: int) -> bytes:
    """The low ``width`` bits of each number, the highest first."""
    bits = np.empty((len(numbers), width), np.uint8)
    for place in range(width):
        bits[:, place] = (numbers >> (width - 1 - place)) & 1
    return np.packbits(bits.ravel()).tobytes()


def _from_fixed(data: bytes, count: int, width: int) -> Integers:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    numbers = np.zeros(count, np.int64)
    for place in range(width):
        numbers = (numbers << 1) | bits[:, place]
    return numbers
