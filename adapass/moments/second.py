"""Second moments, summed in float64 while batches pass by: memory does not grow with the samples.

    moments         rows x  ->  how many, sum x, sum x x^T
    cross moments   rows x of one model, y of another  ->  moments of x, and sum x y^T, sum y, sum y^2

A least-squares fit of y on x needs nothing else. Rows come in the precision the model computes in, and wait
until there are ``BLOCK`` of them: one product of a block is many times as fast as one of each small batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.executor.threads import one_thread
from adapass.graph.extract import extract
from adapass.moments.batches import ROWS_EACH, Batches, feed_names
from adapass.moments.sources import Floats, Selection, Source, stored_rows

Doubles = npt.NDArray[np.float64]
Pair = tuple[Source, Source]

BLOCK = 1024
"""Rows multiplied at a time."""
GRAM_BYTES = 1 << 29
"""Most bytes of sums that one run over the data holds; more sources take several runs."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over rows, uncentred."""

    rows: int
    total: Doubles
    """[C], sum of the rows."""
    gram: Doubles
    """[C, C], sum of outer products."""

    def subset(self, kept: Sequence[int] | npt.NDArray[np.int64]) -> Moments:
        """Moments of these columns alone."""
        places = np.asarray(kept, np.int64)
        return Moments(self.rows, self.total[places], self.gram[np.ix_(places, places)])

    @property
    def covariance(self) -> Doubles:
        """[C, C], about the mean."""
        mean = self.total / self.rows
        return self.gram / self.rows - np.outer(mean, mean)


@dataclass(frozen=True, slots=True)
class CrossMoments:
    """Sums over pairs of rows x and y at the same positions."""

    x: Moments
    total: Doubles
    """[D], sum of y."""
    cross: Doubles
    """[C, D], sum of outer products x y^T."""
    squares: Doubles
    """[D], sum of y^2."""


@dataclass(slots=True)
class MomentSums:
    """Moments while they are summed."""

    rows: int = 0
    total: Doubles | None = None
    gram: Doubles | None = None
    _waiting: list[Floats] = field(default_factory=list[Floats])
    _rows_waiting: int = 0

    def add(self, rows: Floats) -> None:
        self._waiting.append(rows)
        self._rows_waiting += len(rows)
        if self._rows_waiting >= BLOCK:
            self._multiply()

    def done(self, name: str) -> Moments:
        self._multiply()
        if self.total is None or self.gram is None or self.rows == 0:
            raise UsageError(f"no row of '{name}' was seen: all positions of all samples are padding")
        return Moments(self.rows, self.total, self.gram)

    def _multiply(self) -> None:
        if not self._waiting:
            return
        block = np.concatenate(self._waiting)
        self._waiting, self._rows_waiting = [], 0
        self.rows += len(block)
        self.total = _added(self.total, block.sum(axis=0, dtype=np.float64))
        self.gram = _added(self.gram, block.T @ block)


@dataclass(slots=True)
class CrossSums:
    """Cross moments while they are summed."""

    x: MomentSums = field(default_factory=MomentSums)
    total: Doubles | None = None
    cross: Doubles | None = None
    squares: Doubles | None = None
    _waiting: list[tuple[Floats, Floats]] = field(default_factory=list[tuple[Floats, Floats]])
    _rows_waiting: int = 0

    def add(self, x: Floats, y: Floats) -> None:
        if len(x) != len(y):
            raise UsageError(f"rows of x and y must pair up: {len(x)} and {len(y)} found")
        self.x.add(x)
        self._waiting.append((x, y))
        self._rows_waiting += len(x)
        if self._rows_waiting >= BLOCK:
            self._multiply()

    def done(self, name: str) -> CrossMoments:
        x = self.x.done(name)
        self._multiply()
        assert self.total is not None  # a row was seen
        assert self.cross is not None
        assert self.squares is not None
        return CrossMoments(x, self.total, self.cross, self.squares)

    def _multiply(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(side) for side in zip(*self._waiting, strict=True))
        self._waiting, self._rows_waiting = [], 0
        self.total = _added(self.total, y.sum(axis=0, dtype=np.float64))
        self.squares = _added(self.squares, np.square(y, dtype=np.float64).sum(axis=0))
        self.cross = _added(self.cross, x.T @ y)


def _added(sum_: Doubles | None, more: Floats) -> Doubles:
    """In place, so that large sums are not copied batch by batch."""
    if sum_ is None:
        return more.astype(np.float64)
    np.add(sum_, more, out=sum_)
    return sum_


def moments(
    model: ir.Model,
    wanted: Mapping[str, int],
    samples: Samples,
    *,
    count: int | None = None,
    rows_each: int | None = ROWS_EACH,
) -> Mapping[str, Moments]:
    """Moments of values of the main graph along their channel axes, by name.

    ``count`` evenly spaced samples are watched (default: all), ``rows_each`` positions of each.

    Raises:
        UsageError: a name is unknown.
        DataError: there are no samples.
        ModelError: a value is not a float tensor with such an axis.

    """
    sources = {name: Source(name, axis) for name, axis in wanted.items()}
    batches = Batches.of(model, samples, count=count, rows_each=rows_each)
    found = gather(model, tuple(sources.values()), batches)
    return MappingProxyType({name: found[source] for name, source in sources.items()})


def gather(model: ir.Model, sources: Sequence[Source], batches: Batches) -> Mapping[Source, Moments]:
    """Moments of each source, in as few runs over the data as ``GRAM_BYTES`` allows."""
    left = list(dict.fromkeys(sources))
    done: dict[Source, Moments] = {}
    while left:
        with one_thread():
            seen = watch(model, [source.value for source in left], batches)
            first = next(seen)
            group = _that_fit(first, left, batches)
            if len(group) < len(left):  # run on without the others
                seen = watch(model, [source.value for source in group], batches)
                first = next(seen)
            sums = {source: MomentSums() for source in group}
            for selection, values in chain([first], seen):
                for source, sum_ in sums.items():
                    sum_.add(_rows(values, source, batches, selection))
        done |= {source: sum_.done(source.value) for source, sum_ in sums.items()}
        left = [source for source in left if source not in done]
    return MappingProxyType(done)


def cross_moments(
    original: ir.Model,
    rewritten: ir.Model,
    pairs: Sequence[Pair],
    samples: Samples,
    *,
    count: int | None = None,
    rows_each: int | None = ROWS_EACH,
) -> Mapping[Pair, CrossMoments]:
    """Moments of pairs (x in ``rewritten``, y in ``original``) at the same positions of the same samples.

    Raises:
        UsageError: a name is unknown, or x and y do not have equally many positions.
        DataError: there are no samples.

    """
    batches = Batches.of(original, samples, count=count, rows_each=rows_each)
    sums = {pair: CrossSums() for pair in pairs}
    with one_thread():
        given = watch(rewritten, [x.value for x, _ in pairs], batches)
        wanted = watch(original, [y.value for _, y in pairs], batches)
        for (selection, xs), (_, ys) in zip(given, wanted, strict=True):
            for (x, y), sum_ in sums.items():
                sum_.add(_rows(xs, x, batches, selection), _rows(ys, y, batches, selection))
    return MappingProxyType({pair: sum_.done(pair[0].value) for pair, sum_ in sums.items()})


def watch(
    model: ir.Model, names: Sequence[str], batches: Batches
) -> Iterator[tuple[Selection, Mapping[str, Array]]]:
    """Values by name, batch by batch; inputs of the model are values as well."""
    inputs = {value.name or "" for value in model.graph.inputs}
    computed = [name for name in dict.fromkeys(names) if name not in inputs]
    session = Session(extract(model, sorted(inputs), computed), optimize=True) if computed else None
    for selection, feeds in batches:
        given = feed_names(model, feeds)
        yield selection, {**given, **(session.run(given) if session is not None else {})}


def _that_fit(
    first: tuple[Selection, Mapping[str, Array]], left: Sequence[Source], batches: Batches
) -> list[Source]:
    """As many of the sources, in order, as ``GRAM_BYTES`` holds; the first batch tells how wide they are."""
    selection, values = first
    chosen: list[Source] = []
    used_bytes = 0
    for source in left:
        used_bytes += 8 * _rows(values, source, batches, selection).shape[1] ** 2
        if chosen and used_bytes > GRAM_BYTES:
            break
        chosen.append(source)
    return chosen


def _rows(values: Mapping[str, Array], source: Source, batches: Batches, selection: Selection) -> Floats:
    return stored_rows(values[source.value], source, batches.layout(source.value), selection)
