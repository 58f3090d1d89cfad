"""In which order the units of each group should go, from weights alone or from what flows through them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.coupling.groups import Group, Place
from adapass.moments.batches import Batches
from adapass.moments.second import GRAM_BYTES, Moments, gather
from adapass.moments.sources import Source
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, stored
from adapass.passes.prune.saliency import Reader, Removal, by_score, greedy_removal, reader_of

Doubles = npt.NDArray[np.float64]


class Importance(StrEnum):
    """What makes a unit worth keeping."""

    MAGNITUDE = "magnitude"
    """The size of the weights that make and read it. Needs no data."""
    ACTIVATION = "activation"
    """The size of the weights that read it, times that of what they read."""
    SECOND_ORDER = "second-order"
    """The error that stays when everything else makes up for it as well as it can (optimal brain surgeon)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A product that reads the units of a group, and where it finds them."""

    op: LinearOp
    columns: tuple[npt.NDArray[np.int64], ...]
    """For every unit columns of the rows the product reads."""


def readings(group: Group, ops: Sequence[LinearOp]) -> tuple[Reading, ...]:
    """The products among ``ops`` that read the group, in execution order."""
    places = {(place.value, place.axis): place for place in group.read}
    found: list[Reading] = []
    for op in ops:
        place = places.get((op.weight, op.input_axis))
        if place is not None:
            found.append(Reading(op, tuple(op.columns(unit) for unit in place.positions)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Order:
    """In which order the units of a group go."""

    removal: Removal
    readings: tuple[Reading, ...] = ()
    """What was looked at; ``removal.weights`` are theirs."""
    means: tuple[Doubles, ...] = ()
    """The mean row that each reading sees."""


def removals(
    model: ir.Model,
    groups: Mapping[str, Group],
    stops: Mapping[str, Collection[int]],
    batches: Batches | None,
    how: Importance,
) -> Mapping[str, Order]:
    """For each group the order of removal down to the least of its ``stops``.

    Groups that no product reads are ordered by magnitude, and so are all without data (``batches``).
    """
    ops = linear_ops(model)
    found: dict[str, Order] = {}
    read: dict[str, tuple[Reading, ...]] = {}
    for key, group in groups.items():
        read[key] = readings(group, ops) if batches is not None and how is not Importance.MAGNITUDE else ()
        if not read[key]:
            found[key] = Order(by_score(magnitude(model, group)))
    if batches is None:
        return found
    for chunk in _chunks({key: reading for key, reading in read.items() if reading}, model):
        sources = [reading.op.source for key in chunk for reading in read[key]]
        seen = gather(model, sources, batches)
        for key in chunk:
            removal = _removal(model, groups[key], read[key], seen, stops[key], how)
            means = tuple(seen[r.op.source].total / seen[r.op.source].rows for r in read[key])
            found[key] = Order(removal, read[key], means)
    return {key: found[key] for key in groups}


def magnitude(model: ir.Model, group: Group) -> Doubles:
    """Mean square of the weights of each unit, each tensor counted relative to its own mean, [units]."""
    scores = np.zeros(group.units)
    for place in (*group.written, *group.read):
        scores += _shares(model, place)
    return scores


def _shares(model: ir.Model, place: Place) -> Doubles:
    if place.value not in model.graph.initializers:
        return np.zeros(len(place.positions))
    array = stored(model, place.value)
    if array.dtype.kind != "f" or array.ndim < 2:
        return np.zeros(len(place.positions))
    others = tuple(axis for axis in range(array.ndim) if axis != place.axis)
    squares = (array.astype(np.float64) ** 2).sum(axis=others)
    shares = np.array([squares[list(unit)].sum() for unit in place.positions])
    return shares / max(float(shares.mean()), np.finfo(np.float64).tiny)


def _removal(
    model: ir.Model,
    group: Group,
    read: Sequence[Reading],
    seen: Mapping[Source, Moments],
    stops: Collection[int],
    how: Importance,
) -> Removal:
    if how is Importance.ACTIVATION:
        return by_score(np.sum([_activation(model, reading, seen) for reading in read], axis=0))
    readers: list[Reader] = []
    for reading in read:
        found = seen[reading.op.source]
        gram = found.covariance if reading.op.bias is not None else found.gram / found.rows
        matrix = reading.op.matrix(stored(model, reading.op.weight))
        readers.append(reader_of(matrix, gram, reading.columns))
    return greedy_removal(readers, group.units, least=min(stops, default=1), stops=stops)


def _activation(model: ir.Model, reading: Reading, seen: Mapping[Source, Moments]) -> Doubles:
    found = seen[reading.op.source]
    matrix = reading.op.matrix(stored(model, reading.op.weight))
    sizes = np.diag(found.gram) / found.rows * (matrix**2).sum(axis=1)
    total = max(float(sizes.sum()), np.finfo(np.float64).tiny)
    return np.array([sizes[columns].sum() for columns in reading.columns]) / total


def _chunks(read: Mapping[str, Sequence[Reading]], model: ir.Model) -> Iterator[list[str]]:
    """Groups whose sums fit into memory together, in order."""
    chunk: list[str] = []
    used_bytes = 0
    for key, group in read.items():
        widths = {r.op.source: len(r.op.matrix(stored(model, r.op.weight))) for r in group}
        need_bytes = sum(8 * width**2 for width in widths.values())
        if chunk and used_bytes + need_bytes > GRAM_BYTES:
            yield chunk
            chunk, used_bytes = [], 0
        chunk.append(key)
        used_bytes += need_bytes
    if chunk:
        yield chunk
