"""Variations of texts: arrays of whole numbers with one position a token.

The first and the last token of a sample stay where they are: models mark beginning and end there. Everything
that has one number a token (masks, kinds of tokens) is cut and moved along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adapass.budgeted import Array, Feeds, Samples
from adapass.healing.batches import Integers, lengths

WORDS: Final = 16
"""An input with at least so many different numbers holds tokens; one with fewer says something about them."""
_LOOKED_AT: Final = 64
REPLACE, SWAP, DELETE, PART, JOIN = "replace", "swap", "delete", "part", "join"
_CHANGED: Final = 0.15
"""Share of the tokens that are replaced, swapped with their neighbour, or deleted."""
_PLAIN: Final = 0.2
"""Share of the samples that are left as they are."""
_SHORTEST: Final = 4

Row = Mapping[str, Array]
"""Inputs of one sample, [T] each."""


@dataclass(frozen=True, eq=False, slots=True)
class Tokens:
    """For models whose every input is [N, T] whole numbers."""

    words: tuple[str, ...]
    fill: Mapping[str, Array] | None
    """What pads each input; ``None`` where samples cannot have other lengths."""

    @classmethod
    def of(cls, samples: Samples, rows: Integers) -> Tokens | None:
        few = rows[np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).round().astype(np.int64)]
        feeds = [samples.feeds(int(row)) for row in few]
        first = feeds[0]
        if not first or any(x.dtype.kind not in "iu" or x.ndim != 2 for x in first.values()):
            return None
        if any(len({x.shape for x in each.values()}) != 1 for each in feeds):
            return None
        words = tuple(
            name for name in first if len(np.unique(np.concatenate([f[name][0] for f in feeds]))) >= WORDS
        )
        return cls(words, _fill(samples, rows)) if words else None

    @property
    def names(self) -> tuple[str, ...]:
        return (REPLACE, SWAP) if self.fill is None else (REPLACE, SWAP, DELETE, PART, JOIN)

    def batch(
        self,
        samples: Samples,
        rows: Integers,
        kinds: Sequence[str],
        random: np.random.Generator,
        *,
        every: bool = False,
    ) -> tuple[Feeds, Integers]:
        """Varied samples padded to the longest, and the other one of the batch that may be part of each.

        ``every`` varies all samples, as when a kind is measured; else some stay as they are.
        """
        plain = [{name: x[0] for name, x in samples.feeds(int(row)).items()} for row in rows]
        partner = random.permutation(len(rows)).astype(np.int64)
        varied = [
            row
            if not every and random.random() < _PLAIN
            else self._varied(row, plain[int(other)], kinds, random)
            for row, other in zip(plain, partner, strict=True)
        ]
        return self._padded(varied), partner

    def _varied(self, row: Row, other: Row, kinds: Sequence[str], random: np.random.Generator) -> Row:
        kind = kinds[int(random.integers(len(kinds)))]
        size = _length(row)
        if size < _SHORTEST:
            return row
        inner = np.arange(1, size - 1)
        chosen = inner[random.random(len(inner)) < _CHANGED]
        if kind == REPLACE:
            return self._replaced(row, other, chosen, random)
        if kind == SWAP:
            return {**row, **{name: _swapped(row[name], chosen) for name in self.words}}
        if kind == DELETE:
            return _taken(row, np.setdiff1d(np.arange(size), chosen))
        if kind == PART:
            begin, end = sorted(int(place) for place in random.integers(1, size - 1, 2))
            return _taken(row, np.array([0, *range(begin, end + 1), size - 1], np.int64))
        return _joined(row, other, float(random.random()))

    def _replaced(self, row: Row, other: Row, chosen: Integers, random: np.random.Generator) -> Row:
        """By tokens of the other sample: they occur as often as they do."""
        size = _length(other)
        places = random.integers(1, size - 1, len(chosen)) if size >= _SHORTEST else chosen % size
        changed = {name: row[name].copy() for name in self.words}
        for name in self.words:
            changed[name][chosen] = other[name][places]
        return {**row, **changed}

    def _padded(self, rows: Sequence[Row]) -> Feeds:
        longest = max(map(_length, rows))
        result: dict[str, Array] = {}
        for name in rows[0]:
            fill = 0 if self.fill is None else self.fill[name]
            array = np.full((len(rows), longest), fill, rows[0][name].dtype)
            for i, row in enumerate(rows):
                array[i, : _length(row)] = row[name]
            result[name] = array
        return result


def _length(row: Row) -> int:
    return len(next(iter(row.values())))


def _taken(row: Row, places: Integers) -> Row:
    return {name: x[places] for name, x in row.items()}


def _swapped(x: Array, chosen: Integers) -> Array:
    """Chosen positions change places with the one before; the first token is none of them."""
    result = x.copy()
    for place in chosen:
        if place > 1:
            result[[place - 1, place]] = result[[place, place - 1]]
    return result


def _joined(row: Row, other: Row, at: float) -> Row:
    """The beginning of one and the end of the other, no longer than the longer one."""
    most = max(_length(row), _length(other))
    head = min(max(int(at * _length(row)), 1), max(_length(row) - 1, 1))
    tail = max(_length(other) - max(int(at * _length(other)), 1), 1)
    tail = max(min(tail, most - head), 1)
    return {name: np.concatenate([row[name][:head], other[name][-tail:]]) for name in row}


def _fill(samples: Samples, rows: Integers) -> Mapping[str, Array] | None:
    """What the longest sample pads the shortest one with."""
    sizes = lengths(samples)[rows]
    short, long = int(rows[int(sizes.argmin())]), int(rows[int(sizes.argmax())])
    ends = {name: x.shape[1] for name, x in samples.feeds(short).items()}
    if samples.feeds(long)[next(iter(ends))].shape[1] == next(iter(ends.values())):
        return None
    both = samples.batch([short, long])
    return {name: both[name][0, -1] for name in ends}
