"""Inputs for a piece of a model, at the sizes a feed of the whole model gives them.

Latency depends on shapes, not on values, so activations are random and the model in front of the piece is
not run. Whole numbers (shapes, places) and values whose size no symbol tells are computed for real: they
steer what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.graph.extract import extract

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_BYTES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})


def piece_feeds(model: ir.Model, names: Sequence[str], feeds: Sequence[Feeds]) -> list[Feeds]:
    """Arrays for the values ``names`` of ``model``, one mapping for each of ``feeds``."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    wanted = [values[name] for name in names]
    computed = _Computed(model, feeds)
    return [computed.feed(index, wanted) for index in range(len(feeds))]


def first_rows(feed: Feeds, rows: int) -> Feeds:
    """The first ``rows`` samples of a batch."""
    return {name: array[:rows] for name, array in feed.items()}


def rows_of(feed: Feeds) -> int:
    """How many samples a feed has; 1 for a model without arrays."""
    return next((array.shape[0] for array in feed.values() if array.ndim), 1)


def bytes_a_sample(model: ir.Model, names: Sequence[str], feed: Feeds) -> float:
    """Bytes of activations among the values ``names`` for one sample; those of unknown size do not count."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    sizes = _sizes(model, feed)
    total = 0
    for name in names:
        shape, dtype = _shape(values[name], sizes), values[name].dtype
        if shape is not None and dtype is not None and dtype in _FLOATS | _BYTES:
            total += prod(shape) * int(dtype.itemsize)
    return total / rows_of(feed)


class _Computed:
    """Arrays per feed; what must be computed is, for all values at once and only when asked."""

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds]) -> None:
        self._model = model
        self._feeds = feeds

    def feed(self, index: int, wanted: Sequence[ir.Value]) -> Feeds:
        feed = self._feeds[index]
        sizes = _sizes(self._model, feed)
        random = np.random.default_rng(0)
        found = {value.name or "": self._given(value, feed, sizes, random) for value in wanted}
        missing = [name for name, array in found.items() if array is None]
        known = {name: array for name, array in found.items() if array is not None}
        return {**known, **self._run(feed, missing)} if missing else known

    def _given(
        self, value: ir.Value, feed: Feeds, sizes: Mapping[str, int], random: np.random.Generator
    ) -> Array | None:
        if (value.name or "") in feed:
            return feed[value.name or ""]
        if value.const_value is not None:
            return value.const_value.numpy()
        shape = _shape(value, sizes)
        if shape is None or value.dtype is None:
            return None
        if value.dtype in _FLOATS:
            return random.standard_normal(shape, np.float32).astype(value.dtype.numpy())
        if value.dtype in _BYTES:
            return random.integers(0, 100, shape).astype(value.dtype.numpy())
        return None

    def _run(self, feed: Feeds, names: Sequence[str]) -> dict[str, Array]:
        inputs = [value.name or "" for value in self._model.graph.inputs]
        cone = extract(self._model, inputs, names)
        given = {name: array for name, array in feed.items() if name in inputs}
        stored = {
            value.name or "": value.const_value.numpy()
            for value in self._model.graph.inputs
            if value.const_value is not None and (value.name or "") not in feed
        }
        return Session(cone).run({**stored, **given})


def _sizes(model: ir.Model, feed: Feeds) -> dict[str, int]:
    """What each symbolic dimension of the graph inputs is for this feed."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        array = feed.get(value.name or "")
        if array is None or value.shape is None:
            continue
        pairs = zip(value.shape, array.shape, strict=True)
        found.update({str(dim.value): size for dim, size in pairs if isinstance(dim, ir.SymbolicDim)})
    return found


def _shape(value: ir.Value, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else sizes.get(str(dim.value)) for dim in value.shape]
    known = tuple(dim for dim in dims if dim is not None)
    return known if len(known) == len(dims) else None
