"""Split data into fit / search / certify parts by content.

The part of a sample depends on its trimmed inputs and the seed alone: equal samples land in the same part
(nothing that was searched on is certified on), more data moves nobody, and the order of the file does not
matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b

from adapass.data.dataset import Dataset, sample_digests
from adapass.errors import DataError, UsageError


def split_by_hash(dataset: Dataset, shares: Mapping[str, float], *, seed: int) -> dict[str, Dataset]:
    """Parts by name; ``shares`` are positive and sum to 1 (sizes are met on average, not exactly).

    Raises:
        UsageError: shares that make no sense.
        DataError: a part came out empty.

    """
    if (
        not shares
        or any(not share > 0 for share in shares.values())
        or not math.isclose(sum(shares.values()), 1.0)
    ):
        raise UsageError(f"shares {dict(shares)} found; positive numbers that sum to 1 expected")
    names = sorted(shares)
    edges = [sum(shares[name] for name in names[: k + 1]) for k in range(len(names))]
    edges[-1] = 1.0
    rows: dict[str, list[int]] = {name: [] for name in shares}
    for index, digest in enumerate(sample_digests(dataset)):
        place = _uniform(digest, seed)
        rows[next(name for name, edge in zip(names, edges, strict=True) if place < edge)].append(index)
    for name, found in rows.items():
        if not found:
            raise DataError(
                f"part '{name}' (share {shares[name]:g}) of {len(dataset)} samples is empty; "
                "give more samples or a larger share"
            )
    return {name: dataset.subset(found) for name, found in rows.items()}


def overlap(first: Dataset, second: Dataset) -> int:
    """How many samples of ``first`` are also in ``second``, by content."""
    return len(first) - len(_rows_without(first, second))


def without(first: Dataset, second: Dataset) -> Dataset:
    """``first`` without the samples that are also in ``second``, by content. May be empty."""
    return first.subset(_rows_without(first, second))


def _rows_without(first: Dataset, second: Dataset) -> list[int]:
    known = frozenset(sample_digests(second))
    return [index for index, digest in enumerate(sample_digests(first)) if digest not in known]


def _uniform(digest: bytes, seed: int) -> float:
    """A number in [0, 1) with 53 random bits; exact in a double."""
    keyed = blake2b(digest, digest_size=8, key=str(seed).encode(), person=b"adapass-split").digest()
    return (int.from_bytes(keyed, "big") >> 11) / 2**53
