"""Inputs for commands that run models: real ones when data is given, generated ones otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapass.cli.contestants import onnx_file_of
from adapass.errors import DataError

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapass.budgeted import Array, Feeds
    from adapass.data import Dataset


def feeds_for(
    path: Path, data: str | None, *, batch: int, count: int, seed: int, allow_code: bool
) -> list[Feeds]:
    """Up to ``count`` batches of ``batch`` samples for the model at ``path``.

    Raises:
        DataError: the data does not fit, or is less than one batch.

    """
    from adapass.graph.load import load_model

    model = load_model(onnx_file_of(path))
    if data is None:
        return _generated(model, batch, count, seed)
    from adapass.data import load_data

    return _spread(load_data(data, model, allow_code=allow_code), batch, count)


def _spread(samples: Dataset, batch: int, count: int) -> list[Feeds]:
    """Batches of neighbours, their starts spread evenly over the data."""
    if len(samples) < batch:
        raise DataError(
            f"{samples.source} has {len(samples)} samples, fewer than one batch of {batch}; give more data"
        )
    last = len(samples) - batch
    wanted = min(count, last + 1)
    starts = sorted({last * k // max(wanted - 1, 1) for k in range(wanted)})
    return [samples.batch(range(start, start + batch)) for start in starts]


def _generated(model: ir.Model, batch: int, count: int, seed: int) -> list[Feeds]:
    """Generated samples repeated to full batches: what is in them does not matter where nothing was given."""
    import numpy as np

    from adapass.verification import usable_feeds

    def widened(array: Array, have: int) -> Array:
        same_axis = array.ndim > 0 and array.shape[0] == have
        return np.resize(array, (batch, *array.shape[1:])) if same_axis else array

    feeds: list[Feeds] = []
    for feed in usable_feeds(model, seed=seed, cases=min(count, 5)):
        have = next((array.shape[0] for array in feed.values() if array.ndim), 1)
        feeds.append({name: widened(array, have) for name, array in feed.items()})
    return feeds
