"""Batches for training: shuffled anew each round, samples of one length together.

Everything follows from the seed and the round, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Feeds, Samples
from adapass.errors import DataError

Integers = npt.NDArray[np.int64]
_SORTED_TOGETHER = 16
"""Batches whose samples are put in order of length: little padding, and still shuffled."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which samples train and which judge."""

    train: Integers
    held_out: Integers


def split(count: int, share: float, seed: int) -> Split:
    """A shuffled split with at least one sample on each side.

    Raises:
        DataError: fewer than two samples.

    """
    if count < 2:
        raise DataError(f"healing has {count} samples; 2 expected at least, better thousands")
    order = np.random.default_rng([seed, 1]).permutation(count).astype(np.int64)
    judging = min(max(round(count * share), 1), count - 1)
    return Split(np.sort(order[judging:]), np.sort(order[:judging]))


def lengths(samples: Samples) -> Integers:
    """How large each sample is: equal for images, its tokens for text."""
    sizes = [sum(prod(x.shape) for x in samples.feeds(i).values()) for i in range(len(samples))]
    return np.array(sizes, np.int64)


def batched(indices: Integers, sizes: Integers, batch_size: int) -> list[Integers]:
    """In order of size, for judging."""
    order = indices[np.argsort(sizes[indices], kind="stable")]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def shuffled(
    indices: Integers, sizes: Integers, batch_size: int, random: np.random.Generator
) -> list[Integers]:
    """One round over ``indices``. A last batch of less than half the size is left out."""
    order = random.permutation(indices)
    together = batch_size * _SORTED_TOGETHER
    parts = [order[start : start + together] for start in range(0, len(order), together)]
    order = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts])
    found = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(found) > 1 and len(found[-1]) * 2 < batch_size:
        found.pop()
    return [found[i] for i in random.permutation(len(found))]


def rounds(seed: int, epoch: int) -> np.random.Generator:
    """The randomness of one round."""
    return np.random.default_rng([seed, 2, epoch])


def draws(seed: int, step: int) -> np.random.Generator:
    """The randomness of one batch."""
    return np.random.default_rng([seed, 5, step])


def total_bytes(arrays: Sequence[Feeds]) -> int:
    return sum(x.nbytes for feeds in arrays for x in feeds.values())
