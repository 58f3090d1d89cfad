"""Many inputs from few samples: whatever comes out, the original says what it is.

A student that agrees with its teacher on many different inputs computes the same function; on a few thousand
it learns those by heart (Beyer et al. 2022, arXiv:2106.05237). Nothing is assumed about the domain: a
variation is admitted only if the original, on held-back samples, still recognises what is varied. Images that
may not be mirrored (digits) are not mirrored, because the original itself answers otherwise.

    flips, shifts      along any long axis
    mixes, patches     of two samples (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899)
    tokens             replaced, deleted, swapped; a part of a text, or the halves of two
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adapass.budgeted import Array, Feeds, Samples
from adapass.execution import Session
from adapass.healing.batches import Integers, lengths
from adapass.healing.recognition import recognised
from adapass.healing.variations_of_numbers import Numbers
from adapass.healing.variations_of_tokens import Tokens

MEASURED: Final = 128
"""Samples that each variation is tried on."""
ADMITTED: Final = 0.75
"""Share of them that the original must still recognise."""


@dataclass(frozen=True, eq=False, slots=True)
class Variations:
    """What varies batches, and how well the original recognises each kind."""

    kind: Numbers | Tokens | None
    recognised: Mapping[str, float]
    """By kind, refused ones included."""

    @property
    def admitted(self) -> tuple[str, ...]:
        return tuple(name for name, share in self.recognised.items() if share >= ADMITTED)

    def batch(self, samples: Samples, rows: Integers, random: np.random.Generator) -> Feeds:
        """The samples, varied; what ``random`` says decides all."""
        if self.kind is None or not self.admitted:
            return samples.batch([int(row) for row in rows])
        return self.kind.batch(samples, rows, self.admitted, random)[0]


NOTHING: Final = Variations(None, {})


def admitted_variations(
    teacher: Session, output: str, samples: Samples, rows: Integers, batch_size: int, seed: int
) -> Variations:
    """Try every kind of variation that these inputs can have on some of the samples ``rows``."""
    kind = _kind(samples, rows)
    if kind is None:
        return NOTHING
    chosen = _in_batches(samples, rows, batch_size)
    plain = _joined([teacher.run(samples.batch(list(map(int, part))))[output] for part in chosen])

    def share(name: str) -> float:
        random = np.random.default_rng([seed, 4])
        found: list[Array] = []
        partners: list[Integers] = []
        first = 0
        for part in chosen:
            feeds, partner = kind.batch(samples, part, (name,), random, every=True)
            found.append(teacher.run(feeds)[output])
            partners.append(partner + first)
            first += len(part)
        return recognised(_joined(found), plain, plain[np.concatenate(partners)])

    return Variations(kind, {name: share(name) for name in kind.names})


def _kind(samples: Samples, rows: Integers) -> Numbers | Tokens | None:
    makers: Sequence[Callable[[Samples, Integers], Numbers | Tokens | None]] = (Numbers.of, Tokens.of)
    return next((made for make in makers if (made := make(samples, rows)) is not None), None)


def _in_batches(samples: Samples, rows: Integers, size: int) -> list[Integers]:
    """Evenly spread samples, those of like length together."""
    few = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEASURED)).round().astype(np.int64)]
    few = few[np.argsort(lengths(samples)[few], kind="stable")]
    return [few[start : start + size] for start in range(0, len(few), size)]


def _joined(parts: Sequence[Array]) -> Array:
    """Outputs of texts of other lengths cannot be joined but row by row: they are cut to the shortest."""
    rank = parts[0].ndim
    least = [min(part.shape[axis] for part in parts) for axis in range(1, rank)]
    cut = tuple(slice(0, size) for size in least)
    return np.concatenate([part[(slice(None), *cut)] for part in parts])
