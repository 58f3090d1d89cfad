"""Batches to watch a model on: samples of equal shape together, so that nothing is padded.

Sentences have so many lengths that batches would be tiny. Where the model takes a mask, those of similar
length may be padded instead: positions that the mask leaves out do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.token_mask import TokenMask
from adapass.budgeted import Array, Feeds, Samples
from adapass.errors import DataError
from adapass.facts import FactCache
from adapass.moments.sources import Layout, Selection

BATCH = 32
ROWS_EACH = 64
"""Rows a sample when there are more positions: neighbouring pixels say the same."""


@dataclass(frozen=True, slots=True)
class Batches:
    """A data set cut into batches, with what tells rows of real positions from padding."""

    samples: Samples
    groups: tuple[tuple[int, ...], ...]
    fixed: int | None
    """The batch size the model insists on."""
    mask: str | None
    batch_axes: Mapping[str, int]
    token_axes: Mapping[str, int]
    rows_each: int | None

    @classmethod
    def of(
        cls,
        model: ir.Model,
        samples: Samples,
        *,
        size: int = BATCH,
        count: int | None = None,
        rows_each: int | None = ROWS_EACH,
        facts: FactCache | None = None,
        indices: Sequence[int] | None = None,
        padded: bool = False,
    ) -> Batches:
        """Batches of ``count`` evenly spaced samples (default: all), or of those with these ``indices``.

        ``padded`` puts samples of different length together where the model takes a mask.

        Raises:
            DataError: there are no samples.

        """
        if len(samples) == 0:
            raise DataError("the data has no samples to watch the model on; give at least one")
        known = facts or FactCache(model)
        fixed, mask, axes = _fixed_batch(model), known.get(TokenMask).input, known.get(Axes)
        chosen = spread(len(samples), count or len(samples)) if indices is None else indices
        most = min(size, fixed or size)
        groups = _equal_shapes(samples, chosen, most)
        if padded and mask is not None and len(groups) > -(-len(chosen) // most):
            groups = _similar_shapes(samples, chosen, most)
        return cls(samples, groups, fixed, mask, axes.batch, axes.tokens, rows_each)

    def __iter__(self) -> Iterator[tuple[Selection, Feeds]]:
        for group in self.groups:
            yield self._selection(group)

    def layout(self, name: str) -> Layout:
        return Layout(self.batch_axes.get(name), self.token_axes.get(name))

    def _selection(self, group: Sequence[int]) -> tuple[Selection, Feeds]:
        filled = [*group, *[group[-1]] * ((self.fixed or len(group)) - len(group))]
        feeds = self.samples.batch(filled)
        mask = feeds[self.mask] if self.mask is not None and self.mask in feeds else None
        if mask is None and len(filled) > len(group):
            mask = np.ones((len(filled), 1), np.bool_)
        return Selection(tuple(group), None if mask is None else mask.astype(np.bool_), self.rows_each), feeds


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` evenly spaced indices below ``total``."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))]


def feed_names(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What of ``feeds`` the model takes."""
    names = {value.name for value in model.graph.inputs}
    return {name: array for name, array in feeds.items() if name in names}


def _fixed_batch(model: ir.Model) -> int | None:
    for value in model.graph.inputs:
        if value.is_initializer() or value.shape is None or not value.shape.rank():
            continue
        size = value.shape[0]
        return size if isinstance(size, int) else None
    return None


def _equal_shapes(samples: Samples, indices: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        feeds = samples.feeds(index)
        groups.setdefault(tuple((name, feeds[name].shape) for name in sorted(feeds)), []).append(index)
    return tuple(
        tuple(group[at : at + size]) for group in groups.values() for at in range(0, len(group), size)
    )


def _similar_shapes(samples: Samples, indices: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """Smallest samples first, so that little is padded."""
    numbers = {index: sum(array.size for array in samples.feeds(index).values()) for index in indices}
    ordered = sorted(indices, key=lambda index: (numbers[index], index))
    return tuple(tuple(ordered[at : at + size]) for at in range(0, len(ordered), size))
